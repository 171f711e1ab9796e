"""A federation's state in mid-run and its sites' updates, of random numbers: what a server round works on."""

import torch

from cdtl_core.config import RunConfig
from cdtl_core.federation.round import step
from cdtl_core.federation.site import SiteUpdate
from cdtl_core.federation.state import CoordinatorState, Member, start
from cdtl_core.models.model import build_classifier, parts_of

__all__ = ["federation_of"]

_NAMES = ("ultrasound", "histology", "mammography", "mri")


def federation_of(
    backbone: str, *, sites: int, modalities: int, size: int = 64
) -> tuple[CoordinatorState, list[SiteUpdate], RunConfig]:
    """The state after one round, the updates of the next, the run's settings; every group has moved."""
    table = {"image": {"size": size}, "model": {"backbone": backbone, "weights": "random"}}
    config = RunConfig.model_validate({**table, "blend": {"policy": "fixed", "alpha": 0.9, "settle": 0}})
    model = build_classifier(config.model, 2, size)
    shared, shapes = parts_of(model, freeze=0, share_head=True).shared, model.state_dict()
    rng = torch.Generator().manual_seed(0)
    members = [Member(f"site{i:03d}", _NAMES[i % modalities], 20 + i, "labels") for i in range(sites)]

    def update(member: Member, round: int) -> SiteUpdate:
        delta = {name: (1e-3 * torch.randn(shapes[name].shape, generator=rng)).half() for name in shared}
        return SiteUpdate(member.site, round, delta, {"train_loss": 0.5})

    first = (update(member, 1) for member in members)
    state, _ = step(start(members, config), first, config)
    return state, [update(member, 2) for member in members], config
