"""What a pickle claims about tensors, checked against the bytes that are really in the file.

torch.load(mmap=True) believes these claims: a storage larger than its record reads the bytes that
follow it, and a tensor larger than its storage makes torch allocate the difference. The forms are
those that `torch._utils` rebuilds tensors from: `_rebuild_tensor_v2`, `_rebuild_tensor_v3`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from conversion.zip_check import Record

_MAX_DIMENSIONS = 64  # torch's own limit for most operations
_MAX_EMPTY_DIMENSION = 2**31


@dataclass(frozen=True, slots=True)
class StorageClaim:
    """A run of `count` elements of `item_bytes` each, in the record `data/KEY` of the file."""

    key: str
    item_bytes: int
    count: int


@dataclass(frozen=True, slots=True)
class TensorClaim:
    """A tensor of `size` bytes."""

    size: int


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**63


def are_counts(value: Any) -> TypeGuard[tuple[int, ...]]:
    """Whether a value of a pickle can be a shape."""
    return type(value) is tuple and len(value) <= _MAX_DIMENSIONS and all(map(_is_count, value))


def claim_storage(
    key: Any, item_bytes: int, count: Any, records: Mapping[str, Record]
) -> StorageClaim:
    """The storage that a persistent id of a pickle names.

    Raises:
        ValueError: the file has no such record, or one that is smaller.
    """
    record = records.get(f"data/{key}") if type(key) is str else None
    if record is None or not _is_count(count):
        raise ValueError("it refers to data that is not in the file")
    if count * item_bytes > record.size:
        raise ValueError(
            f"it claims {count * item_bytes} bytes for data/{key}, which has {record.size}"
        )
    return StorageClaim(key, item_bytes, count)


def claim_tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, item_bytes: int | None = None
) -> TensorClaim:
    """The tensor that a view of `storage` makes; `offset` and `stride` count elements.

    `item_bytes` is given where the storage is of plain bytes.

    Raises:
        ValueError: the view is malformed, or reaches beyond its storage, or repeats elements.
    """
    if not isinstance(storage, StorageClaim):
        raise ValueError("a tensor has no storage")
    if not (_is_count(offset) and are_counts(shape) and are_counts(stride)):
        raise ValueError("a tensor has a shape, stride or offset that makes no sense")
    item_bytes = item_bytes or storage.item_bytes
    available = storage.count * storage.item_bytes // item_bytes
    elements = math.prod(shape)
    if elements == 0:
        reach = offset
        absurd = max(shape) >= _MAX_EMPTY_DIMENSION
    else:
        reach = offset + 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=False))
        absurd = elements > available
    if len(shape) != len(stride) or absurd or reach > available:
        raise ValueError(
            f"a tensor of shape {shape} does not fit the {available} elements that are stored"
        )
    return TensorClaim(elements * item_bytes)
