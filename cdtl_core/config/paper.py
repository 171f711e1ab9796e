"""Settings of a table of models over one site's images: its rows, their settings and their splits."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from cdtl_core.config.forms import ROW_NAME
from cdtl_core.config.schema import SiteName
from cdtl_core.config.training import Settings

__all__ = ["PaperConfig", "RowConfig"]

_RowName = Annotated[str, Field(pattern=ROW_NAME)]


class RowConfig(Settings):
    """One row of the table."""

    row: _RowName = Field(examples=["ResNet-18"])
    """Name of the row."""
    method: str = "alone"
    """Method that the row trains."""
    changes: dict[str, Any] = Field({}, examples=[{"model": {"backbone": "resnet18", "weights": "random"}}])
    """Settings of the run that the row changes."""
    leaky: int = Field(1, ge=0)
    """Number of random splits by image, for parity with the literature."""
    folds: int = Field(5, ge=2)
    """Number of folds by patient."""
    repeats: int = Field(1, ge=0)
    """How often the folds are drawn; 0: no split by patient."""


class PaperConfig(Settings):
    """A table of models over one site's images; only `cdtl paper` reads it."""

    target: SiteName = Field(examples=["north"])
    """The site whose images test the rows."""
    test_images: int = Field(65, ge=2)
    """Images that a leaky split tests."""
    rows: tuple[RowConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "PaperConfig":
        names = [row.row.lower() for row in self.rows]
        if len(set(names)) != len(names):
            raise ValueError(f"rows must have distinct names, got {', '.join(row.row for row in self.rows)}")
        return self
