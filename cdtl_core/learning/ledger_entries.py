"""The lines of a privacy ledger."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = ["ENTRY", "Commitment", "Entry", "Opening", "Plan", "Reservation"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    at: float


class Opening(_Entry):
    """The first line: the ledger's own number, and what this site treats as public since then.

    Attributes:
        ledger: Thirty-two random hex digits.
        site: Its name.
        num_patients: Training patients, rounded.
        published: Other numbers of the cohort that were published.
    """

    kind: Literal["opening"] = "opening"
    ledger: str
    site: str
    num_patients: int
    published: Mapping[str, int] = Field(default_factory=dict)


class Plan(_Entry):
    """How a run means to spend: its noise is planned once for all its rounds."""

    kind: Literal["plan"] = "plan"
    run: str
    target_epsilon: float
    target_delta: float
    noise_multiplier: float
    sample_rate: float
    steps: int


class Reservation(_Entry):
    """Steps about to be taken."""

    kind: Literal["reservation"] = "reservation"
    number: int
    run: str
    round: int
    noise_multiplier: float
    sample_rate: float
    steps: int


class Commitment(_Entry):
    """How many of a reservation's steps were taken."""

    kind: Literal["commitment"] = "commitment"
    number: int
    steps: int


Entry = Opening | Plan | Reservation | Commitment

ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])
"""Reads a line."""
