"""Augmentation and normalisation of batches."""

import numpy as np
import torch

from cdtl_core.data.transforms import Augmentation, augment, normalise, to_unit

NOTHING = Augmentation(flip=0, rotate_deg=0, translate=0, scale=0, brightness=0, contrast=0, noise=0)


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def changed(**change: float) -> torch.Tensor:
    return augment(images(), Augmentation(**{**vars(NOTHING), **change}), torch.Generator().manual_seed(1))


def test_no_change_changes_nothing() -> None:
    torch.testing.assert_close(changed(), images(), atol=1e-5, rtol=0)


def test_a_certain_flip_mirrors_left_and_right() -> None:
    torch.testing.assert_close(changed(flip=1.0), images().flip(3), atol=1e-5, rtol=0)


def test_each_image_is_changed_on_its_own() -> None:
    same = images(1).expand(4, -1, -1, -1)
    out = augment(same, Augmentation(0.5, 20, 0.1, 0.1, 0.1, 0.1, 0), torch.Generator().manual_seed(0))
    assert len({float(image.sum()) for image in out}) == 4


def test_brightness_moves_the_mean_and_contrast_the_spread() -> None:
    gray = torch.full((64, 1, 8, 8), 0.5)
    bright = augment(gray, Augmentation(**{**vars(NOTHING), "brightness": 0.2}), torch.Generator().manual_seed(0))
    shifts = bright.mean(dim=(1, 2, 3)) - 0.5
    assert float(shifts.abs().max()) <= 0.2 + 1e-6
    assert float(shifts.std()) > 0.08
    middle = images(64) * 0.5 + 0.25
    stretched = augment(middle, Augmentation(**{**vars(NOTHING), "contrast": 0.3}), torch.Generator().manual_seed(0))
    ratio = stretched.std(dim=(1, 2, 3)) / middle.std(dim=(1, 2, 3))
    assert 0.7 - 1e-3 <= float(ratio.min()) < 0.8
    assert 1.2 < float(ratio.max()) <= 1.3 + 1e-3


def test_values_stay_in_range_and_the_generator_decides() -> None:
    strong = {"brightness": 0.9, "noise": 0.5, "rotate_deg": 90.0}
    assert 0 <= float(changed(**strong).min()) <= float(changed(**strong).max()) <= 1
    assert changed(**strong).equal(changed(**strong))


def test_gray_is_repeated_and_standardised_per_channel() -> None:
    batch = to_unit(np.full((2, 1, 4, 4), 51, np.uint8))
    out = normalise(batch, (0.1, 0.2, 0.3), (1.0, 0.5, 0.1))
    assert out.shape == (2, 3, 4, 4)
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([0.1, 0.0, -1.0]), atol=1e-4, rtol=1e-4)


def test_inversion_gamma_and_smoothing_change_what_they_say_and_draw_nothing_when_off() -> None:
    plain = images()
    torch.testing.assert_close(changed(invert=1.0), 1 - plain, atol=1e-5, rtol=0)
    smooth = changed(blur=1.0)[0, 0, 8, 8]
    torch.testing.assert_close(smooth, plain[0, 0, 6:11, 6:11].mean(), atol=1e-5, rtol=0)
    exponents = changed(gamma=1.0).clamp(1e-3, 0.999).log() / plain.clamp(1e-3, 0.999).log()
    medians = exponents.flatten(1).median(dim=1).values
    assert len(medians.unique()) == len(plain)
    assert bool(((medians > 1 / 2.72) & (medians < 2.72)).all())
    rng, again = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    augment(plain, NOTHING, rng)
    augment(plain, Augmentation(**{**vars(NOTHING), "invert": 0.0, "gamma": 0.0, "blur": 0.0}), again)
    assert torch.rand(1, generator=again).equal(torch.rand(1, generator=rng))
