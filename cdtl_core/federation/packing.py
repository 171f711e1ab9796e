"""Records in messages: many tensors packed as one array, and the outline of a reply.

Flower sends every tensor as two objects, and every object takes a request at each hop. Therefore a packed record holds
one array of bytes, and a second record, ``<key>.index``, names its tensors in order.

Flower's encodings have unused space (NumPy headers, JSON, protobuf). Therefore `encoded_again` encodes the values of a
reply again before it leaves a site.
"""

import io
import json
import math
from collections.abc import Collection, Mapping
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from cdtl_core.errors import PrivacyError
from cdtl_core.federation.egress import Tensor
from cdtl_core.federation.egress_check import Outline
from cdtl_core.system.foreign import parse_json

__all__ = [
    "arrays_of",
    "encoded_again",
    "is_packed",
    "not_finite",
    "numbers_of",
    "outline",
    "pack",
    "packed",
    "records_of",
    "unpacked",
]

Arrays = Mapping[str, np.ndarray]
_Kind = TypeVar("_Kind", ArrayRecord, ConfigRecord, MetricRecord)
_PACKED, _INDEX, _TENSORS = "packed", ".index", "tensors"
_TYPES = {"float16": 2, "float32": 4, "float64": 8}
_EXPONENT = np.uint16(0x7C00)  # all bits of a float16's exponent, which only infinity and NaN have
_HEADER = 1024  # bytes; a header of any plain shape takes 128


def pack(key: str, arrays: Arrays) -> dict[str, ArrayRecord | ConfigRecord]:
    """Return the two records of a pack; one ordinary record if there is nothing to pack."""
    if not arrays:
        return {key: ArrayRecord()}
    index = [[name, str(array.dtype), list(array.shape)] for name, array in arrays.items()]
    parts = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays.values()]
    return {
        key: ArrayRecord({_PACKED: _joined(parts)}),
        key + _INDEX: ConfigRecord({_TENSORS: _written(index)}),
    }


def records_of(content: RecordDict, kind: type[_Kind]) -> dict[str, _Kind]:
    """Return the records of one kind.

    Flower's own views, as `content.array_records`, refer to themselves and hold a message's bytes until Python looks
    for garbage.
    """
    return {key: record for key, record in content.items() if isinstance(record, kind)}


def is_packed(content: RecordDict, key: str) -> bool:
    """Whether a record of arrays is a pack."""
    return key + _INDEX in records_of(content, ConfigRecord)


def arrays_of(content: RecordDict, key: str) -> dict[str, np.ndarray]:
    """Return the arrays of a record, packed or not: read-only, they are the bytes of the message.

    Raises:
        KeyError, TypeError, ValueError: The record is missing or malformed.
    """
    record = records_of(content, ArrayRecord)[key]
    if not is_packed(content, key):
        return {name: numbers_of(array.data) for name, array in record.items()}
    (data,) = (numbers_of(array.data) for array in record.values())
    (text,) = records_of(content, ConfigRecord)[key + _INDEX].values()
    index = parse_json(str(text))
    sizes = [_size(dtype, shape) for _, dtype, shape in index]
    if _written(index) != text:
        raise ValueError("an index holds more than its tensors")
    if data.dtype != np.uint8 or data.shape != (sum(sizes),) or len({name for name, _, _ in index}) != len(index):
        raise ValueError("the index does not fit its pack")
    ends = np.cumsum(sizes)
    return {
        str(name): _aligned(data[end - size : end].view(dtype)).reshape(shape)
        for (name, dtype, shape), size, end in zip(index, sizes, ends, strict=True)
    }


def numbers_of(data: bytes) -> np.ndarray:
    """Return the array of a NumPy file that holds nothing else, read-only and without a copy.

    Raises:
        ValueError: It is no such file.
    """
    try:
        head = io.BytesIO(data[:_HEADER])
        if np.lib.format.read_magic(head) != (1, 0):
            raise ValueError("an unknown version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
        if dtype.hasobject or any(length < 0 for length in shape):
            raise ValueError("objects, or no shape")
        return np.frombuffer(data, dtype, offset=head.tell()).reshape(shape, order="F" if fortran else "C")
    except Exception as error:  # NumPy raises many kinds of errors for forged headers
        raise ValueError(f"no array ({type(error).__name__})") from None


def unpacked(content: RecordDict) -> RecordDict:
    """Return the content with every pack as an ordinary record of tensors.

    Raises:
        KeyError, TypeError, ValueError: A pack is malformed.
    """
    packs = [key for key in records_of(content, ArrayRecord) if is_packed(content, key)]
    plain = RecordDict({key: record for key, record in content.items() if key.removesuffix(_INDEX) not in packs})
    for key in packs:
        plain[key] = ArrayRecord({name: Array(array) for name, array in arrays_of(content, key).items()})
    return plain


def packed(content: RecordDict, keys: Collection[str]) -> RecordDict:
    """Return the content with these records of arrays as packs."""
    dense = RecordDict({key: record for key, record in content.items() if key not in keys})
    for key in keys:
        dense.update(pack(key, arrays_of(content, key)))
    return dense


def outline(content: RecordDict) -> Outline:
    """Return every record of a reply, with tensors as they are declared."""
    return Outline(
        {
            key: {name: _tensor(array) for name, array in record.items()}
            for key, record in records_of(content, ArrayRecord).items()
        },
        {key: dict(record) for key, record in records_of(content, MetricRecord).items()},
        {key: dict(record) for key, record in records_of(content, ConfigRecord).items()},
    )


def encoded_again(content: RecordDict) -> RecordDict:
    """Encode the same values again; check the outline before (for size) and after (for the real content).

    Raises:
        PrivacyError: A tensor's bytes are no NumPy array.
    """
    copy = RecordDict()
    for key, arrays in records_of(content, ArrayRecord).items():
        copy[key] = ArrayRecord({name: _array(array) for name, array in arrays.items()})
    for key, metrics in records_of(content, MetricRecord).items():
        copy[key] = MetricRecord(dict(metrics))
    for key, config in records_of(content, ConfigRecord).items():
        copy[key] = ConfigRecord(dict(config))
    return copy


def not_finite(content: RecordDict) -> str:
    """Return which float16 tensor of a reply holds NaN or infinity, as a sentence; empty if none does."""
    for key, arrays in records_of(content, ArrayRecord).items():
        for name, array in arrays.items():
            bits = numbers_of(array.data).view(np.uint16)
            if np.any((bits & _EXPONENT) == _EXPONENT):
                return f"the tensor {key!r}.{name!r} holds a value that is not finite: nothing of this reply leaves."
    return ""


def _joined(parts: Collection[np.ndarray]) -> Array:
    """Join arrays into one of bytes in one pass; `Array` of a numpy array copies it three times."""
    count = sum(part.size for part in parts)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (count,)})
    data = b"".join([head.getvalue(), *(part.data for part in parts)])
    return Array(dtype="uint8", shape=(count,), stype="numpy.ndarray", data=data)


def _aligned(array: np.ndarray) -> np.ndarray:
    """Return a copy of an array that begins between two of its numbers, as after a tensor of a smaller type."""
    if not array.flags.aligned:
        array = array.copy()
        array.flags.writeable = False
    return array


def _written(index: object) -> str:
    """Return an index as text, in its only spelling."""
    return json.dumps(index, separators=(",", ":"))


def _size(dtype: object, shape: list[int]) -> int:
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("a shape of a pack is none")
    return _TYPES[str(dtype)] * math.prod(shape)


def _tensor(array: Array) -> Tensor:
    return Tensor(dtype=array.dtype, shape=array.shape, bytes=len(array.data))


def _array(array: Array) -> Array:
    try:
        return Array(numbers_of(array.data))
    except ValueError as error:
        raise PrivacyError(f"a tensor of a reply is {error}: nothing of it leaves.") from None
