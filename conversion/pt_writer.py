"""Writes planned tensors as a file that `torch.load` reads, without holding them in memory.

Format: a zip of stored entries below one folder (torch.serialization): `data.pkl`, the pickled
dict whose storages are persistent ids, and `data/KEY`, the bytes of each storage. `torch.save`
would need every tensor at once.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import torch

from conversion.rules import PlannedTensor, Shape
from conversion.safetensors_writer import row_blocks, tensor_bytes
from conversion.tensor_source import TensorSource

_FOLDER = "archive"
# torch starts storages on these boundaries, so that a memory-mapped tensor is aligned.
_ALIGNMENT = 64
_LOCAL_HEADER = 30
_ZIP64_EXTRA = 20

_STORAGE_TYPES = {
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.float64: torch.DoubleStorage,
}


@dataclass(frozen=True, slots=True)
class _Storage:
    """Stands in the pickle where `torch.save` has a storage."""

    key: str
    dtype: torch.dtype
    count: int


class _Tensor:
    """Pickles as a contiguous tensor over a storage of its own."""

    def __init__(self, storage: _Storage, shape: Shape) -> None:
        self._storage = storage
        self._shape = shape

    def __reduce__(self) -> tuple[Any, ...]:
        strides = tuple(prod(self._shape[i + 1 :]) for i in range(len(self._shape)))
        hooks: OrderedDict[int, object] = OrderedDict()
        arguments = (self._storage, 0, self._shape, strides, False, hooks)
        return torch._utils._rebuild_tensor_v2, arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> tuple[Any, ...] | None:
        if isinstance(obj, _Storage):
            return "storage", _STORAGE_TYPES[obj.dtype], obj.key, "cpu", obj.count
        return None


def _pickled(outer_key: str, tensors: dict[str, _Tensor]) -> bytes:
    buffer = io.BytesIO()
    # Protocol 2 is what torch writes and what its restricted unpickler reads.
    _Pickler(buffer, protocol=2).dump({outer_key: tensors})
    return buffer.getvalue()


def _entry(archive: zipfile.ZipFile, name: str, size: int) -> zipfile.ZipInfo:
    """A stored entry, padded by an extra field so that its bytes start on a boundary."""
    info = zipfile.ZipInfo(f"{_FOLDER}/{name}")
    info.file_size = size
    assert archive.fp is not None
    zip64 = _ZIP64_EXTRA if size * 1.05 > zipfile.ZIP64_LIMIT else 0
    start = archive.fp.tell() + _LOCAL_HEADER + len(info.filename) + zip64 + 4
    padding = -start % _ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    return info


def write_pt(
    file: BinaryIO,
    outer_key: str,
    plan: Sequence[PlannedTensor],
    source: TensorSource,
    *,
    prefix: str = "",
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Write `{outer_key: {prefix + name: tensor}}`.

    Args:
        file: open for writing, seekable, and empty.
        outer_key: where SAT keeps the model in the outer dict.
        plan: the tensors to write; each keeps the dtype of its source.
        source: the tensors that the plan's pieces name.
        prefix: set before each name.
        advance: called with the bytes of each block written.
    """
    storages = [
        _Storage(str(key), source.dtype(tensor.pieces[0].name), prod(tensor.shape))
        for key, tensor in enumerate(plan)
    ]
    tensors = {
        prefix + tensor.name: _Tensor(storage, tensor.shape)
        for tensor, storage in zip(plan, storages, strict=True)
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (
            ("data.pkl", _pickled(outer_key, tensors)),
            ("byteorder", b"little"),
        ):
            archive.writestr(_entry(archive, name, len(content)), content)
        for tensor, storage in zip(plan, storages, strict=True):
            size = storage.count * storage.dtype.itemsize
            with archive.open(_entry(archive, f"data/{storage.key}", size), "w") as entry:
                for rows in row_blocks(tensor, source, storage.dtype.itemsize):
                    data = tensor_bytes(rows)
                    entry.write(data)
                    advance(len(data))
        archive.writestr(_entry(archive, "version", 2), b"3\n")
