"""All settings: what a federation agrees on, what belongs to one hospital, and what a simulation adds.

A setting is written the same way everywhere: ``train.lr`` in TOML, in ``--set`` and in Flower's run config.
`RunConfig` is what all sites of a federation share; `SiteConfig` belongs to one hospital; their keys are disjoint.
"""

from cdtl_core.config.paper import PaperConfig, RowConfig
from cdtl_core.config.run import (
    AggregateConfig,
    BlendConfig,
    DpConfig,
    FederationConfig,
    LimitsConfig,
    Method,
    ModelSelectionConfig,
    PoolConfig,
    RunConfig,
    ShareConfig,
)
from cdtl_core.config.schema import SiteName
from cdtl_core.config.simulation import ClusterConfig, SimulationConfig
from cdtl_core.config.site import (
    ApprovalConfig,
    BoxConfig,
    ChecksConfig,
    ComputeConfig,
    DataConfig,
    Locks,
    PhantomConfig,
    PublishConfig,
    SiteConfig,
    SitePrivacy,
)
from cdtl_core.config.training import (
    NAMED_WEIGHTS,
    AugmentConfig,
    ImageConfig,
    ModalityName,
    ModelConfig,
    Pooling,
    SplitConfig,
    TaskConfig,
    TrainConfig,
    Unit,
)

__all__ = [
    "NAMED_WEIGHTS",
    "AggregateConfig",
    "ApprovalConfig",
    "AugmentConfig",
    "BlendConfig",
    "BoxConfig",
    "ChecksConfig",
    "ClusterConfig",
    "ComputeConfig",
    "DataConfig",
    "DpConfig",
    "FederationConfig",
    "ImageConfig",
    "LimitsConfig",
    "Locks",
    "Method",
    "ModalityName",
    "ModelConfig",
    "ModelSelectionConfig",
    "PaperConfig",
    "PhantomConfig",
    "PoolConfig",
    "Pooling",
    "PublishConfig",
    "RowConfig",
    "RunConfig",
    "ShareConfig",
    "SimulationConfig",
    "SiteConfig",
    "SiteName",
    "SitePrivacy",
    "SplitConfig",
    "TaskConfig",
    "TrainConfig",
    "Unit",
]
