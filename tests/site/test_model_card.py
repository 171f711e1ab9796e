"""The audit in a model card: whole, absent or damaged; a fault removes a line of the card, not the run."""

import json
import logging
from pathlib import Path

import pytest

from cdtl_core.config.folders import SiteFolder
from cdtl_core.site.model_card import _audit

TOLD = {"claim": 8.0, "bound": 3.1, "confidence": 0.95, "canaries": 500, "refuted": False}


def test_an_audit_is_quoted_with_what_the_card_names_alone(tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text(json.dumps({**TOLD, "seconds": 9}))
    found = _audit(SiteFolder(tmp_path))
    assert found is not None
    assert found.model_dump() == TOLD


@pytest.mark.parametrize("text", ["", "[]", "{", '{"claim": 8}', json.dumps({**TOLD, "claim": "much"}), "[" * 100_000])
def test_a_damaged_audit_is_said_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    assert _audit(SiteFolder(tmp_path)) is None
    assert not caplog.records
    (tmp_path / "audit.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert _audit(SiteFolder(tmp_path)) is None
    assert "audit.json cannot be read" in caplog.text
