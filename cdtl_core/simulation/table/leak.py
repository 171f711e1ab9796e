"""The split by image, common in the literature: other images of a test patient may be in training."""

import zlib
from dataclasses import replace

import numpy as np

from cdtl_core.data.split import SPLITS
from cdtl_core.errors import DataError
from cdtl_core.federation.site import Site
from cdtl_core.simulation.folds import whole_fold

__all__ = ["leaked_share", "leaky_site"]


def leaky_site(site: Site, *, seed: int, test_images: int) -> Site:
    """Return the site with `test_images` random images as its test split, regardless of patients and labels.

    `split.val` of the others are for validation. Its results are too good: LEAKY, only for parity with the literature.

    Args:
        site: The site.
        seed: Seed of the split.
        test_images: Number of test images.

    Raises:
        DataError: The site has too few images.
    """
    whole = whole_fold(site.cohort)
    count = whole.num_units
    num_val = max(1, round(site.config.split.val * count))
    if test_images + num_val >= count:
        raise DataError(f"site {site.name} has {count} images and is to test {test_images}: lower paper.test_images.")
    drawn = np.random.default_rng([seed, zlib.crc32(site.name.encode()), zlib.crc32(b"leaky")]).permutation(count)
    ends = {"test": drawn[:test_images], "val": drawn[test_images:][:num_val], "train": drawn[test_images + num_val :]}
    folds = {split: whole.where(np.sort(ends[split])) for split in SPLITS}
    return replace(site, cohort=replace(site.cohort, folds=folds))


def leaked_share(site: Site) -> float:
    """Return the share of test images with another image of the same patient in training."""
    folds = site.cohort.folds
    return float(np.isin(folds["test"].patients, folds["train"].patients).mean())
