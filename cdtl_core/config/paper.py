"""Settings of a table of models over one site's images: its rows, their settings and their splits."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from cdtl_core.config.schema import SiteName
from cdtl_core.config.training import Settings

__all__ = ["PaperConfig", "RowConfig"]

_RowName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,47}$")]


class RowConfig(Settings):
    """One row of the table.

    Attributes:
        row: Its name.
        method: The method that the row trains.
        changes: Settings of the run that the row changes.
        leaky: Number of random splits by image, for parity with the literature.
        folds: Number of folds by patient.
        repeats: How often the folds are drawn; 0: no split by patient.
    """

    row: _RowName
    method: str = "alone"
    changes: dict[str, Any] = Field({})
    leaky: int = Field(1, ge=0)
    folds: int = Field(5, ge=2)
    repeats: int = Field(1, ge=0)


class PaperConfig(Settings):
    """The rows, the site whose images test them, and how many images a leaky split tests."""

    target: SiteName
    test_images: int = Field(65, ge=2)
    rows: tuple[RowConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "PaperConfig":
        names = [row.row.lower() for row in self.rows]
        if len(set(names)) != len(names):
            raise ValueError(f"rows must have distinct names, got {', '.join(row.row for row in self.rows)}")
        return self
