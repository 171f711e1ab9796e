"""Control of averaging: two own models with different seeds, pooled as `cdtl` pools own and joint model."""

from dataclasses import dataclass, replace

from cdtl_core.federation.evidence import PooledModel, evidence_of, pool_models
from cdtl_core.federation.pool import fit_pool, standard_of
from cdtl_core.simulation.methods.method import Federation, Method, score_any
from cdtl_core.simulation.methods.track import Track, advance, begin, deployed

__all__ = ["own_twice"]

_OTHER = 500_009
"""Added to the seed of the second model; larger than the number of draws of any study."""


@dataclass(frozen=True)
class Twice:
    """Two runs of local training of the receivers."""

    one: Track
    two: Track


def own_twice() -> Method[Twice]:
    """Return own models of two seeds; the share follows from their out-of-fold predictions, as in `cdtl`."""

    def start(federation: Federation) -> Twice:
        return Twice(*(begin(part) for part in _parts(federation)))

    def round(federation: Federation, state: Twice) -> Twice:
        one, two = _parts(federation)
        return Twice(advance(one, state.one), advance(two, state.two))

    def model_of(federation: Federation, state: Twice, site: str) -> PooledModel:
        one, two = _parts(federation)
        models = deployed(one, state.one, site), deployed(two, state.two, site)
        here, train = one.sites[site], one.sites[site].cohort.folds["train"]
        if not here.config.trains_only_heads or not train.holds_features:
            return pool_models(here, *models)
        spread, other = (standard_of(score_any(here, model, train), train.patients) for model in models)
        first, second = (federation.kept.out_of_fold(part.sites[site]) for part in (one, two))
        evidence = evidence_of(first, second, train)
        return PooledModel(*models, fit_pool(spread, other, evidence))

    return Method(start, round, model_of)


def _parts(federation: Federation) -> tuple[Federation, Federation]:
    own = federation.only(federation.receivers).under({"method": "alone"})
    other = own.under({"seed": federation.config.seed + _OTHER})
    return own, replace(other, kept=federation.kept)
