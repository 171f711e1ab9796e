"""The split that much of the literature uses, image by image: a patient's other images are among those to train on."""

import zlib
from dataclasses import replace

import numpy as np

from cdtl_core.data.split import SPLITS
from cdtl_core.errors import DataError
from cdtl_core.federation.site import Site
from cdtl_core.simulation.folds import whole_fold

__all__ = ["leaked_share", "leaky_site"]


def leaky_site(site: Site, *, seed: int, test_images: int) -> Site:
    """The site with `test_images` of its images, drawn without a look at patients or labels, as its test split.

    Of the others `split.val` are kept for validation. What it tests is better than it is: LEAKY, for parity alone.

    Raises:
        DataError: The site has too few images.
    """
    whole = whole_fold(site.cohort)
    count = whole.num_images
    num_val = max(1, round(site.config.split.val * count))
    if test_images + num_val >= count:
        raise DataError(f"site {site.name} has {count} images and is to test {test_images}: lower paper.test_images.")
    drawn = np.random.default_rng([seed, zlib.crc32(site.name.encode()), zlib.crc32(b"leaky")]).permutation(count)
    ends = {"test": drawn[:test_images], "val": drawn[test_images:][:num_val], "train": drawn[test_images + num_val :]}
    folds = {split: whole.where(np.sort(ends[split])) for split in SPLITS}
    return replace(site, cohort=replace(site.cohort, folds=folds))


def leaked_share(site: Site) -> float:
    """Share of the test images of which the same patient has another one to train on."""
    folds = site.cohort.folds
    return float(np.isin(folds["test"].patients, folds["train"].patients).mean())
