"""A table of models over one site's images: what is played in each row, with which settings, over which splits."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from cdtl_core.config.run import Settings, SiteName

__all__ = ["PaperConfig", "RowConfig"]

_RowName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,47}$")]


class RowConfig(Settings):
    """One row: a method, the run's settings that it changes (`changes`), and how often it is played.

    `leaky` is the number of random splits image by image, `folds` and `repeats` those by patient (0 repeats: none).
    """

    row: _RowName
    method: str = "alone"
    changes: dict[str, Any] = Field({})
    leaky: int = Field(1, ge=0)
    folds: int = Field(5, ge=2)
    repeats: int = Field(1, ge=0)


class PaperConfig(Settings):
    """The rows, the site whose images they are tested on, and how many images a leaky split tests."""

    target: SiteName
    test_images: int = Field(65, ge=2)
    rows: tuple[RowConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "PaperConfig":
        names = [row.row.lower() for row in self.rows]
        if len(set(names)) != len(names):
            raise ValueError(f"rows must have distinct names, got {', '.join(row.row for row in self.rows)}")
        return self
