"""The real server against sites that only answer: two rounds with N sites of ResNet-18, for the server's memory.

python -m simulations.bench.arms.server_memory N OUT
"""

import functools
import sys
from functools import partial
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from cdtl_core.config import RunConfig
from cdtl_core.config.settings import flatten
from cdtl_core.coordinator.app import app as server
from cdtl_core.federation import wire
from cdtl_core.federation.contract import ModalityContract, label_hash
from cdtl_core.federation.site import SiteUpdate
from cdtl_core.federation.state import Member
from cdtl_core.models.model import build_classifier, parts_of
from cdtl_core.simulation.inprocess import run_in_process

__all__ = ["main", "play_server"]

_CONFIG = RunConfig.model_validate(
    {
        "name": "memory",
        "method": "fedbn",
        "image": {"size": 32},
        "model": {"backbone": "resnet18", "weights": "random"},
        "federation": {"rounds": 2},
    }
)
_LABELS = _CONFIG.task.labels


def main() -> None:
    """Play the server."""
    play_server(int(sys.argv[1]), Path(sys.argv[2]), _CONFIG)


def play_server(sites: int, out: Path, config: RunConfig) -> None:
    """Two modalities in turn; in a round every site answers the same small differences, in the next others."""
    app, deltas = ClientApp(), functools.cache(partial(_delta, config))

    def member(context: Context) -> Member:
        number = int(context.node_id)
        return Member(f"site{number}", ("ultrasound", "histology")[number % 2], 10, label_hash(_LABELS))

    @app.query("describe")
    def _describe(message: Message, context: Context) -> Message:
        own = member(context)
        facts = {"labels": _LABELS, "positive": config.task.positive, "channels": 1, "bit_depth": 8, "patients": 10}
        contract = ModalityContract(site=own.site, modality=own.modality, **facts)
        return Message(wire.encode_introduction(wire.Introduction(own, False, contract)), reply_to=message)

    @app.train()
    def _train(message: Message, context: Context) -> Message:
        order, _ = wire.decode_order(message.content, config.federation.rounds)
        said = dict.fromkeys(("val_loss", "val_auroc", "train_loss"), 0.5)
        update = SiteUpdate(member(context).site, order.round, deltas(order.round), said)
        return Message(wire.encode_update(update), reply_to=message)

    @app.evaluate()
    def _finish(message: Message, _context: Context) -> Message:
        final = wire.FinalScalars(dict.fromkeys(("test_auroc", "test_auroc_low", "test_auroc_high"), 0.5), "joint")
        return Message(wire.encode_final(final), reply_to=message)

    out.mkdir(parents=True, exist_ok=True)
    homes = [out / f"site{number}" for number in range(sites)]
    run_in_process(server, app, folder=out, homes=homes, settings=flatten(config))


def _delta(config: RunConfig, round: int) -> dict[str, torch.Tensor]:
    model = build_classifier(config.model, len(_LABELS), config.image.size)
    state, rng = model.state_dict(), torch.Generator().manual_seed(round)
    shared = parts_of(model, freeze=0, share_head=False).shared
    return {name: (1e-3 * torch.randn(state[name].shape, generator=rng)).half() for name in shared}


if __name__ == "__main__":
    main()
