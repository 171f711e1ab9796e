"""Normalisation and augmentation of image batches; all randomness comes from a generator argument."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from cdtl_core.errors import ConfigError
from cdtl_core.system.registry import Registry

__all__ = ["TRANSFORMS", "Augmentation", "Transform", "augment", "normalise", "register_transform", "to_unit"]

Transform = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""Images B C H W in [0, 1] on any device, and a generator of the CPU, to images of the same shape."""
TRANSFORMS: Registry[Transform] = Registry(
    "transforms",
    takes="images and a generator",
    remedy="remove it from train.augment.transforms, or use {known}",
    shipped={},
)

_BLUR = 5


@dataclass(frozen=True)
class Augmentation:
    """The largest random change of each kind.

    Lengths are shares of the image, angles degrees, `gamma` a logarithm; `flip`, `invert` and `blur` are chances.
    """

    flip: float
    rotate_deg: float
    translate: float
    scale: float
    brightness: float
    contrast: float
    noise: float
    invert: float = 0.0
    gamma: float = 0.0
    blur: float = 0.0
    transforms: tuple[str, ...] = ()


def register_transform(name: str, transform: Transform) -> None:
    """Make a random change of training images known to this process, for ``train.augment.transforms``.

    For the command line and for runs between hospitals, put it into a package (docs/guides/package.md).

    Args:
        name: Lower case, digits, ``_`` and ``-``, at most 48 characters.
        transform: From images B C H W in [0, 1] and a generator, its only source of randomness, to images of the same
            shape; what lies outside [0, 1] is cut off.

    Raises:
        ConfigError: The name is taken or malformed.

    Examples:
        >>> from cdtl_core import register_transform
        >>> register_transform("darker", lambda images, rng: images * 0.9)
    """
    TRANSFORMS.register(name, transform)


def to_unit(batch: npt.NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """Return a B C H W uint8 batch as float32 in [0, 1]; a tensor stays on its device."""
    whole = batch if isinstance(batch, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(batch))
    return whole.to(torch.float32).div_(255.0)


def augment(images: torch.Tensor, change: Augmentation, rng: torch.Generator) -> torch.Tensor:
    """Change each image of a batch on its own: flip, rotation, shift, scale, contrast, brightness, noise.

    With settings above 0 also gamma, inversion and smoothing; last the transforms that `change` names.

    The changes are drawn on the CPU, the pixel noise on the images' device. So what is drawn after the noise, and in
    later batches, differs between devices.

    Args:
        images: B C H W in [0, 1], on any device.
        change: The widest changes.
        rng: The only source of randomness; of the CPU.

    Source: eq. (5), Inbaraj et al. 2025.
    """
    count, device = images.shape[0], images.device

    def spread(width: float) -> torch.Tensor:
        return (torch.rand(count, generator=rng) * 2 - 1) * width

    flip = torch.where(torch.rand(count, generator=rng) < change.flip, -1.0, 1.0)
    angle, zoom = torch.deg2rad(spread(change.rotate_deg)), 1 + spread(change.scale)
    shift = torch.stack([spread(2 * change.translate), spread(2 * change.translate)], dim=1)
    turn = torch.stack([angle.cos() * flip, -angle.sin(), angle.sin() * flip, angle.cos()], dim=1).view(count, 2, 2)
    matrix = torch.cat([turn * zoom.view(-1, 1, 1), shift.unsqueeze(2)], dim=2)
    grid = affine_grid(matrix.to(device), list(images.shape), align_corners=False)
    moved = grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    light = torch.stack([1 + spread(change.contrast), spread(change.brightness)]).view(2, -1, 1, 1, 1).to(device)
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    moved = (moved - mean) * light[0] + mean + light[1]
    noise = torch.randn(moved.shape, generator=_generator_on(device, rng), device=device)
    noisy = moved.add_(noise, alpha=change.noise).clamp_(0, 1)
    images = _rendered(noisy, change, rng)
    for name in change.transforms:
        images = _transformed(images, name, rng)
    return images


def _rendered(images: torch.Tensor, change: Augmentation, rng: torch.Generator) -> torch.Tensor:
    """Change gamma, inversion and smoothing; a change that is switched off draws no random number."""

    def drawn() -> torch.Tensor:
        return torch.rand((images.shape[0], 1, 1, 1), generator=rng).to(images.device)

    if change.gamma:
        images = images.clamp_min(1e-4) ** torch.exp((drawn() * 2 - 1) * change.gamma)
    if change.invert:
        images = torch.where(drawn() < change.invert, 1 - images, images)
    if change.blur:
        smooth = avg_pool2d(images, _BLUR, stride=1, padding=_BLUR // 2, count_include_pad=False)
        images = torch.where(drawn() < change.blur, smooth, images)
    return images


def _transformed(images: torch.Tensor, name: str, rng: torch.Generator) -> torch.Tensor:
    found = TRANSFORMS.find(name)(images, rng)
    if not isinstance(found, torch.Tensor) or found.shape != images.shape:
        raise ConfigError(
            f"the transform '{name}' returned {getattr(found, 'shape', type(found).__name__)} for images of "
            f"{tuple(images.shape)}: it must keep the shape."
        )
    return found.clamp(0, 1)


def _generator_on(device: torch.device, rng: torch.Generator) -> torch.Generator:
    """Return the generator itself on the CPU, and on another device one that it seeds."""
    if device.type == "cpu":
        return rng
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (1,), generator=rng)))


def normalise(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Normalise B C H W in [0, 1] to B 3 H W; gray is repeated so that all modalities share the stem.

    Args:
        images: B C H W in [0, 1].
        mean: Subtracted, per channel.
        std: Divisor, per channel.

    Source: eq. (2), Inbaraj et al. 2025. Differs: the constants are those of the initial weights, the same at every
    site.
    """
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    centre, spread = (torch.tensor(value, device=images.device).view(1, -1, 1, 1) for value in (mean, std))
    return (images - centre).div_(spread + 1e-6)
