"""The contents of every message of a run."""

from collections.abc import Callable
from pathlib import Path

from cdtl_core.config import SimulationConfig
from cdtl_core.federation.contract import head_name
from cdtl_core.federation.packing import arrays_of
from cdtl_core.models.model import parts_of
from cdtl_core.site.home import open_site
from tests.conftest import Played

Tiny = Callable[..., SimulationConfig]


def test_no_norm_integer_buffer_or_local_head_is_in_any_reply(tiny: Tiny, played: Played, tmp_path: Path) -> None:
    """Checked on the real messages: replies hold exactly the shared tensors, and no record beyond the listed ones."""
    config = tiny(share={"head": False})
    run, messages = played(config), played(config).messages
    site = open_site(run.copied(tmp_path / "run") / "sites" / "alba", config.run)
    parts = parts_of(site.model, freeze=0, share_head=False)
    state = site.model.state_dict()
    norms = {name for name in state if name not in parts.shared}
    assert any("num_batches_tracked" in name for name in norms)
    assert any("running_mean" in name for name in norms)
    kinds = [asked.metadata.message_type for asked, _ in messages]
    assert (kinds.count("query.describe"), kinds.count("train"), kinds.count("evaluate")) == (3, 9, 3)
    allowed = {
        "site": {"site", "modality", "label_hash", "num_patients", "holds_initial_weights", "contract"},
        "final": {"test_auroc", "test_auroc_low", "test_auroc_high", "chosen"},
    }
    for asked, reply in messages:
        arrays = {
            name: value for key in reply.content.array_records for name, value in arrays_of(reply.content, key).items()
        }
        if asked.metadata.message_type == "train":
            assert set(arrays) == set(parts.shared)
            assert {str(value.dtype) for value in arrays.values()} == {"float16"}
            assert set(reply.content) == {"delta", "delta.index", "metrics"}
            assert set(reply.content.metric_records["metrics"]) == {
                "round",
                "val_loss",
                "val_auroc",
                "train_loss",
            }
        else:
            assert arrays == {}
            record = {"query.describe": "site", "evaluate": "final"}[asked.metadata.message_type]
            assert set(reply.content) == {record}
            assert set(reply.content[record]) <= allowed[record]
        sent_down = {
            name
            for key in asked.content.array_records
            if key != "initial_weights"
            for name in arrays_of(asked.content, key)
        }
        assert not sent_down & norms


def test_a_shared_head_travels_under_the_hash_of_its_labels(tiny: Tiny, played: Played) -> None:
    name = head_name("head.weight", ("benign", "malignant"))
    replies = [reply for asked, reply in played(tiny()).messages if asked.metadata.message_type == "train"]
    assert all(name in arrays_of(reply.content, "delta") for reply in replies)


def test_initial_weights_is_sent_once(tiny: Tiny, played: Played) -> None:
    messages = played(tiny(methods=("alone", "cdtl"))).messages
    with_initial_weights = [asked.metadata.dst_node_id for asked, _ in messages if "initial_weights" in asked.content]
    assert sorted(with_initial_weights) == [101, 102, 103]
