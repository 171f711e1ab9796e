"""The kinds of lines in a privacy ledger."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = ["ENTRY", "MECHANISM", "Commitment", "Entry", "Opening", "Plan", "Reservation", "Unprotected"]

MECHANISM = 2
"""Version of the mechanism whose steps this version takes.

Mechanism 1 drew images, views and dropout of all patients from one sequence, and clipped by wrong lengths in trained
stages: one patient could change a step's sum by many times the clip, so its noise gives no epsilon.
"""


class _Entry(BaseModel):
    """Attributes: `at`, seconds since 1970; `mechanism`, the version of the mechanism; without it the first."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    at: float
    mechanism: int = 1


class Opening(_Entry):
    """The first line: the ledger's number, and the numbers that this site treats as public from then on.

    Attributes:
        ledger: Thirty-two random hex digits.
        site: The site's name.
        num_patients: Training patients, rounded.
        published: Other published numbers of the cohort.
    """

    kind: Literal["opening"] = "opening"
    ledger: str
    site: str
    num_patients: int
    published: Mapping[str, int] = Field(default_factory=dict)


class Plan(_Entry):
    """A run's spending plan: the noise is planned once for all its rounds."""

    kind: Literal["plan"] = "plan"
    run: str
    target_epsilon: float
    target_delta: float
    noise_multiplier: float
    sample_rate: float
    steps: int


class Reservation(_Entry):
    """Steps that are about to be taken."""

    kind: Literal["reservation"] = "reservation"
    number: int
    run: str
    round: int
    noise_multiplier: float
    sample_rate: float
    steps: int

    @property
    def faulty(self) -> bool:
        """Whether the steps were taken by a mechanism whose noise gives no bound."""
        return self.mechanism < MECHANISM


class Commitment(_Entry):
    """Number of steps taken of a reservation."""

    kind: Literal["commitment"] = "commitment"
    number: int
    steps: int


class Unprotected(_Entry):
    """A run in which this site sent updates without privacy; the ledger's epsilon does not cover them."""

    kind: Literal["unprotected"] = "unprotected"
    run: str


Entry = Opening | Plan | Reservation | Commitment | Unprotected

ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])
"""Parses a line."""
