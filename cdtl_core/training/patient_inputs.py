"""Inputs for training with differential privacy: what is drawn for a patient depends on no other patient."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch

from cdtl_core.config import AugmentConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.data.pixels import Ints, one_channel
from cdtl_core.data.transforms import Augmentation, augment, normalise, to_unit
from cdtl_core.models.draws import Draws, below
from cdtl_core.models.exams import Batch, Exams
from cdtl_core.models.model import Classifier
from cdtl_core.models.noise import unit
from cdtl_core.training.features import Features

__all__ = ["Examples", "PatientInputs", "patient_exams", "patient_images", "patient_views"]

PatientInputs = Callable[[int, Ints, Ints], Batch]
"""From a step, identities of B patients and places B M of their images to a module's input, B M ..., on the CPU; of
units with several images to B M exams."""


class Examples:
    """Training units by patient: images, or exams with several.

    Args:
        identities: Number of each unit's patient, U, independent of the presence of other patients.
        labels: U.
        inputs: Inputs of the module.
    """

    def __init__(self, identities: Ints, labels: Ints, inputs: PatientInputs) -> None:
        self.identities, which = np.unique(identities, return_inverse=True)
        self._order = np.argsort(which, kind="stable")
        self._counts = np.bincount(which)
        self._first = np.concatenate([[0], np.cumsum(self._counts)[:-1]])
        self._labels, self._inputs = labels, inputs

    def of(self, patients: Ints, multiplicity: int, step: int, draws: Draws) -> tuple[Batch, torch.Tensor]:
        """Return inputs B M ... and labels B M: M units of each patient in turn; for M = 1 B ... and B.

        Units with several images are B M exams, one patient after the other, and labels B M.

        Args:
            patients: B.
            multiplicity: M.
            step: Number of the step.
            draws: Draws of the training.
        """
        counts, identities = self._counts[patients][:, None], self.identities[patients]
        turns = (below(draws, "image", step, identities, counts) + np.arange(multiplicity)) % counts
        rows = self._order[self._first[patients][:, None] + turns]
        inputs, labels = self._inputs(step, identities, rows), torch.from_numpy(self._labels[rows])
        if isinstance(inputs, Exams):
            return inputs, labels
        return (inputs, labels) if multiplicity > 1 else (inputs[:, 0], labels[:, 0])


def patient_views(features: Features, draws: Draws) -> PatientInputs:
    """Return one of the V views of each image, from features N V D; a patient's views depend on no other patient."""

    def inputs(step: int, identities: Ints, rows: Ints) -> torch.Tensor:
        views = below(draws, "view", step, identities, features.shape[1], rows.shape[1])
        return torch.from_numpy(features[rows, views].astype(np.float32))

    return inputs


def patient_images(model: Classifier, fold: Fold, change: AugmentConfig, draws: Draws) -> PatientInputs:
    """Return images that are changed by a separate generator for each patient, independent of all other patients.

    An image with three equal channels is changed as a gray one: whether a cohort is stored in colour depends on all its
    patients.

    Args:
        model: The network.
        fold: The images.
        change: The largest changes.
        draws: Draws of the training.
    """
    changes = Augmentation(**change.model_dump())

    def changed(row: int, seed: int) -> torch.Tensor:
        image = to_unit(one_channel(fold.pixels[fold.rows[row]])[None])
        return normalise(augment(image, changes, torch.Generator().manual_seed(seed)), model.mean, model.std)

    def inputs(step: int, identities: Ints, rows: Ints) -> torch.Tensor:
        seeds = below(draws, "change", step, identities, 2**52, rows.shape[1])
        pairs = zip(rows.ravel().tolist(), seeds.ravel().tolist(), strict=True)
        images = torch.cat([torch.empty(0, 3, *fold.pixels.shape[2:]), *(changed(row, seed) for row, seed in pairs)])
        return images.view(*rows.shape, *images.shape[1:])

    return inputs


def patient_exams(images: PatientInputs, fold: Fold, most: int, draws: Draws) -> PatientInputs:
    """Return the images of units B M of B patients as exams; which images are drawn depends on no other patient.

    Args:
        images: From places of images to inputs.
        fold: The units.
        most: Of a unit with more images, this number is drawn at random, without replacement.
        draws: Draws of the training.
    """

    def inputs(step: int, identities: Ints, units: Ints) -> Batch:
        found, lengths = list[torch.Tensor](), list[int]()
        for who, own in zip(identities[:, None], units, strict=True):
            keys = unit(draws("exam", step, who, 8 * int(fold.lengths[own].sum())))[0]
            chosen = [np.sort(np.argsort(part)[:most]) for part in np.split(keys, np.cumsum(fold.lengths[own])[:-1])]
            places = np.concatenate([start + part for start, part in zip(fold.starts[own], chosen, strict=True)])
            found.append(cast(torch.Tensor, images(step, who, places[None]))[0])
            lengths += map(len, chosen)
        return Exams(torch.cat(found) if found else torch.empty(0), lengths)

    return inputs
