"""Settings of a simulated federation: the run, its sites, the methods to compare, and its share of a cluster."""

from typing import Literal

from pydantic import Field, model_validator

from cdtl_core.config.paper import PaperConfig
from cdtl_core.config.run import Method, RunConfig
from cdtl_core.config.site import SiteConfig
from cdtl_core.config.training import Settings

__all__ = ["ClusterConfig", "SimulationConfig"]


class ClusterConfig(Settings):
    """What a simulation or a comparison takes of a Ray cluster, with --address; on one machine it has no effect."""

    cpus: int = Field(1, ge=1)
    """CPUs that Ray reserves for a site (simulate) or a cell (compare). A site computes with as many threads, a cell
    with one."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for each of them; 0.25: four share one. With 0 they compute on CPUs."""
    feature_cache: Literal["shared", "node"] = "shared"
    """Of a comparison: shared computes features once, in the study's folder; node computes them on each node, in a
    temporary folder."""
    send_images: bool = False
    """Of a comparison: send the decoded images of all sites to the nodes, through Ray's object store. With false no
    image is sent, and every node must see the study's folder and the images under the same paths."""


class SimulationConfig(Settings):
    """A federation on one machine or cluster: the run, its sites, and the methods to compare."""

    run: RunConfig = RunConfig()
    methods: tuple[Method, ...] = Field(("fedbn", "cdtl"), min_length=1)
    """Methods that are trained and compared. With cdtl each site also trains its own model, so alone need not be
    listed."""
    sites: tuple[SiteConfig, ...] = Field(min_length=1)
    paper: PaperConfig | None = None
    cluster: ClusterConfig = ClusterConfig()

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
