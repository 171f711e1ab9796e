"""A reply looked at from outside: what it holds, and the same content written anew.

Flower's encodings leave room beside the values (NumPy headers, JSON, protobuf): what leaves a site is written here.
"""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from cdtl_core.errors import PrivacyError
from cdtl_core.federation.egress import Outline, Tensor
from cdtl_core.federation.packing import numbers_of

__all__ = ["not_finite", "outline", "written_anew"]

_EXPONENT = np.uint16(0x7C00)  # all bits of a float16's exponent, which only infinity and NaN have


def outline(content: RecordDict) -> Outline:
    """Every record of a reply, tensors as they are declared."""
    return Outline(
        {
            key: {name: _tensor(array) for name, array in record.items()}
            for key, record in content.array_records.items()
        },
        {key: dict(record) for key, record in content.metric_records.items()},
        {key: dict(record) for key, record in content.config_records.items()},
    )


def written_anew(content: RecordDict) -> RecordDict:
    """The same values in records that this process wrote; check the outline before (for size) and after (for truth).

    Raises:
        PrivacyError: A tensor's bytes are no NumPy array.
    """
    copy = RecordDict()
    for key, arrays in content.array_records.items():
        copy[key] = ArrayRecord({name: _array(array) for name, array in arrays.items()})
    for key, metrics in content.metric_records.items():
        copy[key] = MetricRecord(dict(metrics))
    for key, config in content.config_records.items():
        copy[key] = ConfigRecord(dict(config))
    return copy


def not_finite(content: RecordDict) -> str:
    """Which float16 tensor of a reply holds NaN or infinity, as a sentence; empty if none does."""
    for key, arrays in content.array_records.items():
        for name, array in arrays.items():
            bits = numbers_of(array.data).view(np.uint16)
            if np.any((bits & _EXPONENT) == _EXPONENT):
                return f"the tensor {key!r}.{name!r} holds a value that is not finite: nothing of this reply leaves."
    return ""


def _tensor(array: Array) -> Tensor:
    return Tensor(dtype=array.dtype, shape=array.shape, bytes=len(array.data))


def _array(array: Array) -> Array:
    try:
        return Array(numbers_of(array.data))
    except ValueError as error:
        raise PrivacyError(f"a tensor of a reply is {error}: nothing of it leaves.") from None
