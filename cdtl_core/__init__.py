"""Hospitals with different imaging modalities train an image classifier together; no image leaves a site.

The names in `__all__` are the public interface. They keep their meaning for one minor version at least
(docs/deprecation.md); every other name may change without notice. Importing cdtl_core loads neither torch nor Flower:
a name loads what it needs when it is first used.

Examples:
    >>> import cdtl_core as cdtl
    >>> report = cdtl.simulate(cdtl.load_config("tiny"), "runs/first")
    >>> [(site.name, sorted(site.results)) for site in report.sites]
    [('north', ['alone', 'cdtl', 'fedbn']), ('south', ['alone', 'cdtl', 'fedbn'])]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cdtl_core.errors import (
    CdtlError,
    CheckpointError,
    ConfigError,
    DataError,
    FederationError,
    ModelError,
    PrivacyError,
)

if TYPE_CHECKING:
    from cdtl_core.config import RunConfig, SimulationConfig, SiteConfig
    from cdtl_core.config.modalities import Modality, register_modality
    from cdtl_core.config.settings import load_config
    from cdtl_core.data.synthetic.writing import write_phantoms
    from cdtl_core.data.transforms import register_transform
    from cdtl_core.federation.site import Site
    from cdtl_core.inference.model_folder import ModelNote, load_model
    from cdtl_core.inference.predict import Prediction, predict
    from cdtl_core.metrics.summary import register_metric
    from cdtl_core.models.backbones import register_backbone
    from cdtl_core.quality.check import CohortCheck
    from cdtl_core.quality.check_source import check_cohort
    from cdtl_core.results.comparison import Comparison
    from cdtl_core.results.report import Report
    from cdtl_core.simulation.arms import register_method
    from cdtl_core.simulation.compare import compare, resume_comparison
    from cdtl_core.simulation.methods.method import Federation, Method
    from cdtl_core.simulation.simulate import resume_simulation, simulate
    from cdtl_core.simulation.study import Study, study_of
    from cdtl_core.site.home import open_site
    from cdtl_core.training.objective import Objective, register_loss

    __version__: str

__all__ = [
    "CdtlError",
    "CheckpointError",
    "CohortCheck",
    "Comparison",
    "ConfigError",
    "DataError",
    "Federation",
    "FederationError",
    "Method",
    "Modality",
    "ModelError",
    "ModelNote",
    "Objective",
    "Prediction",
    "PrivacyError",
    "Report",
    "RunConfig",
    "SimulationConfig",
    "Site",
    "SiteConfig",
    "Study",
    "__version__",
    "check_cohort",
    "compare",
    "load_config",
    "load_model",
    "open_site",
    "predict",
    "register_backbone",
    "register_loss",
    "register_method",
    "register_metric",
    "register_modality",
    "register_transform",
    "resume_comparison",
    "resume_simulation",
    "simulate",
    "study_of",
    "write_phantoms",
]

_PLACES = {
    "CohortCheck": ".quality.check",
    "Comparison": ".results.comparison",
    "Federation": ".simulation.methods.method",
    "Method": ".simulation.methods.method",
    "Modality": ".config.modalities",
    "ModelNote": ".inference.model_folder",
    "Objective": ".training.objective",
    "Prediction": ".inference.predict",
    "Report": ".results.report",
    "RunConfig": ".config",
    "SimulationConfig": ".config",
    "Site": ".federation.site",
    "SiteConfig": ".config",
    "Study": ".simulation.study",
    "check_cohort": ".quality.check_source",
    "compare": ".simulation.compare",
    "load_config": ".config.settings",
    "load_model": ".inference.model_folder",
    "open_site": ".site.home",
    "predict": ".inference.predict",
    "register_backbone": ".models.backbones",
    "register_loss": ".training.objective",
    "register_method": ".simulation.arms",
    "register_metric": ".metrics.summary",
    "register_modality": ".config.modalities",
    "register_transform": ".data.transforms",
    "resume_comparison": ".simulation.compare",
    "resume_simulation": ".simulation.simulate",
    "simulate": ".simulation.simulate",
    "study_of": ".simulation.study",
    "write_phantoms": ".data.synthetic.writing",
}
"""Module of each name that is loaded late, relative to this package."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from cdtl_core.system.shipped import code_version

        value: Any = code_version()
    elif name in _PLACES:
        value = getattr(import_module(_PLACES[name], __name__), name)
    else:
        raise AttributeError(f"module 'cdtl_core' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
