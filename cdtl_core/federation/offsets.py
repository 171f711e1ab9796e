"""The groups' offsets after a round: each group's mean update is added, then the groups are blended.

Tensor by tensor and part by part, so that each part is read once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from cdtl_core.federation.aggregate import Mean, catch_up, mean_in_parts
from cdtl_core.federation.blend import blend_tensor, check_one_shape, layers_of
from cdtl_core.federation.transfer import Matrix
from cdtl_core.models.compiled import on_cores
from cdtl_core.models.pieces import Buffers, in_parts
from cdtl_core.models.weights import Weights, check_finite

__all__ = ["next_offsets"]


@dataclass(frozen=True)
class _Room:
    """Room for one part of a tensor.

    Attributes:
        blend: Of the blend.
        means: Group to that of its mean.
        offsets: Group to that of its offset before the round.
    """

    blend: Buffers
    means: Mapping[str, Buffers]
    offsets: Mapping[str, Buffers]

    @classmethod
    def of(cls, groups: Iterable[str]) -> "_Room":
        """Return room for these groups."""
        names = list(groups)
        return cls(Buffers(), {name: Buffers() for name in names}, {name: Buffers() for name in names})


def next_offsets(
    offsets: Mapping[str, Weights], means: Mapping[str, Mean], matrix: Matrix, depth: str
) -> dict[str, Weights]:
    """Return every group's offset after a round, float16.

    Groups that share tensors continue to share them.

    Args:
        offsets: Group to its offset before the round, in the matrix's order.
        means: Group to the mean of its accepted updates; used up.
        matrix: The blend matrix.
        depth: As in `blend`.
    """
    for mean in means.values():
        catch_up(mean)
    shapes = [{name: value.shape for name, value in offset.items()} for offset in offsets.values()]
    shapes += [mean.shapes for mean in means.values()]
    names = _names({group: offsets[group] | means[group].shapes for group in offsets})
    layers = dict(layers_of(names, matrix, depth))
    shape_of = {one: check_one_shape(found[one] for found in shapes if one in found) for one in layers}
    rooms, blended = list[_Room](), dict[str, Weights]()

    def work(tensor: str, layer: Matrix) -> None:
        try:
            room = rooms.pop()
        except IndexError:
            room = _Room.of(offsets)
        held = {group: (offsets[group], means[group]) for group in offsets if tensor in names[group]}
        moved = _moved_in_parts(tensor, shape_of[tensor], held, room)
        blended[tensor] = _blended(moved, shape_of[tensor], list(offsets), layer, room.blend)
        rooms.append(room)

    large = any(mean.loops for mean in means.values())
    on_cores([partial(work, tensor, layer) for tensor, layer in layers.items()], cores=None if large else 1)
    for tensor in layers:
        for value in {id(value): value for value in blended[tensor].values()}.values():
            check_finite({tensor: value}, "the rounded difference")
    after = {group: {name: blended[name][group] for name in layers if group in blended[name]} for group in offsets}
    same = {tuple(map(id, weights.values())): weights for weights in after.values()}
    return {group: same[tuple(map(id, weights.values()))] for group, weights in after.items()}


def _moved_in_parts(
    tensor: str, shape: torch.Size, held: Mapping[str, tuple[Weights, Mean]], room: _Room
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the flat parts of U = W + mean update of each group, float64; without an update it is W, or zero.

    Args:
        tensor: Its name.
        shape: Its shape.
        held: Group to its offset before the round, and its mean update.
        room: Holds each part until the next one.
    """
    # A part that groups share is widened once, and several of them read it: the sum is written over the mean's part.
    found = {group: offset[tensor] for group, (offset, _) in held.items() if tensor in offset}
    nothing = torch.zeros(shape if len(found) < len(held) else 0, dtype=torch.float16)
    before = {group: found.get(group, nothing) for group in held}
    firsts = {id(value): group for group, value in reversed(before.items())}  # groups may hold the same tensor
    offsets = in_parts(*(before[group] for group in firsts.values()))
    means = {
        group: mean_in_parts(mean, tensor, room.means[group])
        for group, (_, mean) in held.items()
        if tensor in mean.shapes
    }
    for parts in offsets:
        wide = {
            first: room.offsets[group].double(part) for (first, group), part in zip(firsts.items(), parts, strict=True)
        }
        moved = {group: wide[id(value)] for group, value in before.items()}
        yield moved | {
            group: next(mean).add_(moved[group]) if group in found else next(mean) for group, mean in means.items()
        }


def _blended(
    moved: Iterable[Mapping[str, torch.Tensor]], shape: torch.Size, groups: Sequence[str], layer: Matrix, room: Buffers
) -> Weights:
    """Return group to a tensor after the blend, rounded to float16.

    Args:
        moved: Group to the tensor before the blend, part by part.
        shape: Of the tensor.
        groups: All groups, in the matrix's order.
        layer: The blend matrix of the tensor.
        room: Of the blend.
    """
    after: Weights = {}
    done = 0
    for parts in moved:
        blended = blend_tensor(parts, groups, layer, room)
        for group, value in blended.items():
            twin = next(other for other, same in blended.items() if same is value)
            if group not in after:
                after[group] = after[twin] if twin in after else torch.empty(shape, dtype=torch.float16)
            if twin == group:
                after[group].view(-1)[done : done + value.numel()].copy_(value)
        done += next(iter(parts.values())).numel()
    return after


def _names(held: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return group to the names of its tensors after the round, in one order.

    Every group has every tensor of the backbone. Heads belong to their label maps and stay with the groups that hold
    them, after the backbone, sorted.
    """
    backbone = list(dict.fromkeys(n for names in held.values() for n in names if not n.startswith("head.")))
    return {group: backbone + sorted(n for n in names if n.startswith("head.")) for group, names in held.items()}
