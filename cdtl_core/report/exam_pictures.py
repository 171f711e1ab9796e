"""The images of an exam with their weight in its decision, for a site's own report only, since they show patients."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.data.cohort import Cohort, Fold
from cdtl_core.inference.model_folder import PooledNetwork
from cdtl_core.models.exams import Exams
from cdtl_core.models.model import Classifier
from cdtl_core.report.charts.figure import Gallery, Picture
from cdtl_core.report.pictures import data_url, seen
from cdtl_core.results.text import percent
from cdtl_core.training.batches import on_device
from cdtl_core.training.device import CPU
from cdtl_core.training.inputs import plain_inputs
from cdtl_core.training.saliency import grad_cam
from cdtl_core.training.scoring import weigh

__all__ = ["ExamPictures"]

_MOST = 8  # images of an exam that are shown
_SIDE = 160


@dataclass(frozen=True)
class ExamPictures:
    """Draws exams of a cohort as a model sees them.

    Attributes:
        cohort: The cohort; it names the files.
        fold: The exams.
        model: The network.
        label: Index of the label whose evidence is shown.
        gray: Whether images of the modality are gray.
    """

    cohort: Cohort
    fold: Fold
    model: Classifier | PooledNetwork
    label: int
    gray: bool

    def gallery(self, exam: int, title: str) -> Gallery:
        """Return the images of an exam that have the largest weights, in their order.

        Args:
            exam: Index of the exam in the fold.
            title: What was decided about it.
        """
        one = self.fold.where(np.array([exam]))
        weights = weigh(self.model, one, device=CPU)
        shown = np.sort(np.argsort(-weights, kind="stable")[:_MOST])
        heats = self._heats(one, shown)
        pictures = [
            self._picture(one, place, float(weights[place]), None if heats is None else heats[number])
            for number, place in enumerate(shown.tolist())
        ]
        left = len(weights) - len(shown)
        rest = percent(float(max(0.0, 1 - weights[shown].sum())))
        more = f"The {len(shown)} images with the largest weights; the {left} others have {rest} together."
        return Gallery(pictures, title, more if left else "")

    def _heats(self, one: Fold, shown: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
        """Return Grad-CAM of the shown images as one exam, H W each; None for a network without feature maps."""
        images = on_device(plain_inputs(self.model, one)(shown), CPU)
        heat = grad_cam(self.model, Exams(images, (len(shown),)), self.label)
        return None if heat is None else heat.numpy()

    def _picture(self, one: Fold, place: int, weight: float, heat: npt.NDArray[np.float32] | None) -> Picture:
        """Return an image of an exam.

        Args:
            one: The exam.
            place: Index of the image.
            weight: Its weight.
            heat: Its map.
        """
        row, number = int(one.rows[place]), f"image {place + 1} of {len(one.rows)}"
        several = len({self.cohort.files[other] for other in one.rows.tolist()}) > 1
        file = f", {self.cohort.files[row]}" if several else ""
        return Picture(
            data_url(seen(np.asarray(one.pixels[row]), gray=self.gray), heat, side=_SIDE),
            f"{number.capitalize()}, {percent(weight)} of the exam's decision.",
            f"{percent(weight)}: {number}{file}",
            weight,
        )
