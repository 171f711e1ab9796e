"""Pooled data: all sites' images in one place, an upper bound that privacy forbids."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cdtl_core.data.cohort import Cohort, Fold
from cdtl_core.data.split import SPLITS
from cdtl_core.errors import ConfigError
from cdtl_core.federation.site import Site, with_fresh_norms
from cdtl_core.models.weights import Weights
from cdtl_core.simulation.methods.method import Federation, Method, federation_of
from cdtl_core.simulation.methods.track import Track, advance, begin, deployed

__all__ = ["Pooled", "pool_folds", "pool_sites", "pooled"]


@dataclass(frozen=True)
class Pooled:
    """A federation of one site that holds all images, and its run."""

    together: Federation
    track: Track


def pooled() -> Method[Pooled]:
    """Return one network trained on all images, with the same total number of steps as all sites.

    The statistics of its norms are computed at each site from the site's own training images, as in all methods. With
    one site it is local training, bit for bit.

    Raises:
        ConfigError: The sites' labels differ.
    """

    def start(federation: Federation) -> Pooled:
        steps = federation.config.train.steps * len(federation.sites)
        config = federation.under({"method": "alone", "train": {"steps": steps}}).config
        together = federation_of([pool_sites(list(federation.sites.values()))], federation.initial_weights, config)
        return Pooled(together, begin(together))

    def round(_federation: Federation, state: Pooled) -> Pooled:
        return replace(state, track=advance(state.together, state.track))

    def model_of(federation: Federation, state: Pooled, site: str) -> Weights:
        (name,) = state.together.sites
        return with_fresh_norms(federation.sites[site], deployed(state.together, state.track, name))

    return Method(start, round, model_of)


def pool_sites(sites: Sequence[Site]) -> Site:
    """Return one site that holds all images of `sites`, with their splits; names and modalities are joined by +.

    Raises:
        ConfigError: Their labels differ.
    """
    labels = {site.cohort.labels for site in sites}
    if len(labels) > 1:
        raise ConfigError(f"the sites have {len(labels)} label maps: pooled needs one: give all sites the same labels.")
    folds = {split: pool_folds([site.cohort.folds[split] for site in sites], _offsets(sites)) for split in SPLITS}
    files = tuple(file for site in sites for file in site.cohort.files)
    units = tuple(unit for site in sites for unit in site.cohort.units or site.cohort.files)
    cohort = Cohort(sites[0].cohort.labels, folds, files, max(site.cohort.bits for site in sites), units=units)
    name, modality = ("+".join(dict.fromkeys(words)) for words in _names(sites))
    return replace(sites[0], name=name, modality=modality, cohort=cohort)


def pool_folds(folds: Sequence[Fold], offsets: Sequence[int]) -> Fold:
    """Return one fold of all images, in order; gray becomes three equal channels if another fold has colour.

    Args:
        folds: The same split of each site.
        offsets: Added to each fold's patient numbers, so that two sites share none.
    """
    channels = max(fold.pixels.shape[1] for fold in folds)
    images = [fold.pixels[fold.rows] for fold in folds]
    wide = [np.repeat(image, channels // image.shape[1], axis=1) for image in images]
    pixels = np.concatenate(wide)
    patients = [fold.patients + offset for fold, offset in zip(folds, offsets, strict=True)]
    labels = np.concatenate([fold.labels for fold in folds])
    lengths = np.concatenate([fold.lengths for fold in folds])
    return Fold(pixels, np.arange(len(pixels)), labels, np.concatenate(patients), lengths=lengths)


def _offsets(sites: Sequence[Site]) -> list[int]:
    counts = [1 + max(int(fold.patients.max(initial=-1)) for fold in site.cohort.folds.values()) for site in sites]
    return [sum(counts[:index]) for index in range(len(sites))]


def _names(sites: Sequence[Site]) -> tuple[list[str], list[str]]:
    return [site.name for site in sites], [site.modality for site in sites]
