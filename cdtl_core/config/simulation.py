"""Settings of a simulated federation: the run, its sites, and the methods to compare."""

from pydantic import Field, model_validator

from cdtl_core.config.paper import PaperConfig
from cdtl_core.config.run import Method, RunConfig
from cdtl_core.config.site import SiteConfig
from cdtl_core.config.training import Settings

__all__ = ["SimulationConfig"]


class SimulationConfig(Settings):
    """A federation on one machine: the run, its sites, and the methods to compare."""

    run: RunConfig = RunConfig()
    methods: tuple[Method, ...] = Field(("fedbn", "cdtl"), min_length=1)
    """Methods that are trained and compared. With cdtl each site also trains its own model, so alone need not be
    listed."""
    sites: tuple[SiteConfig, ...] = Field(min_length=1)
    paper: PaperConfig | None = None

    @model_validator(mode="after")
    def _distinct(self) -> "SimulationConfig":
        names = [site.site for site in self.sites]
        if len(set(names)) != len(names):
            raise ValueError(f"site names must be distinct, got {', '.join(names)}")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError(f"methods must be distinct, got {', '.join(self.methods)}")
        if self.paper is not None and self.paper.target not in names:
            raise ValueError(f"paper.target '{self.paper.target}' is not a site: use one of {', '.join(names)}")
        return self

    def of_method(self, method: Method) -> RunConfig:
        """Return the run's settings with `method` set."""
        return self.run.model_copy(update={"method": method})
