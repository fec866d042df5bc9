"""Writes planned tensors as sharded safetensors, a few megabytes at a time.

Format: https://github.com/huggingface/safetensors (8 bytes header length, JSON header, tensors).
The header is known from the plan, so each tensor goes from the memory-mapped checkpoint straight
to its place; nothing is held but the rows under way.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch

from conversion.background_digest import BackgroundDigest
from conversion.rules import PlannedTensor
from conversion.tensor_source import TensorSource
from weights.errors import OperationError

MAX_SHARD_BYTES = 5_000_000_000
_BLOCK_BYTES = 16 << 20

SAFETENSORS_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
}


@dataclass(frozen=True, slots=True)
class Cast:
    """What becomes of the dtypes: cast to `dtype`, None keeps each tensor's own."""

    dtype: torch.dtype | None = None
    allow_overflow: bool = False
    """Let finite values become infinite where they do not fit."""


@dataclass(frozen=True, slots=True)
class _Entry:
    tensor: PlannedTensor
    dtype: torch.dtype

    @property
    def size(self) -> int:
        return prod(self.tensor.shape) * int(self.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file to write: its name and the tensors in it, by name."""

    name: str
    entries: tuple[_Entry, ...]

    @property
    def data_size(self) -> int:
        """Bytes of tensor data."""
        return sum(entry.size for entry in self.entries)


def plan_shards(
    plan: Sequence[PlannedTensor],
    source: TensorSource,
    cast: Cast,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> tuple[Shard, ...]:
    """Deal a model's tensors, sorted by name, to files named as diffusers names them.

    A shard is closed before it grows over `max_shard_bytes`.
    """
    groups: list[list[_Entry]] = [[]]
    size = 0
    for tensor in sorted(plan, key=lambda tensor: tensor.name):
        entry = _Entry(tensor, cast.dtype or source.dtype(tensor.pieces[0].name))
        if groups[-1] and size + entry.size > max_shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.size
    base = "diffusion_pytorch_model"
    if len(groups) == 1:
        return (Shard(f"{base}.safetensors", tuple(groups[0])),)
    return tuple(
        Shard(f"{base}-{number:05}-of-{len(groups):05}.safetensors", tuple(group))
        for number, group in enumerate(groups, start=1)
    )


def _header(entries: Sequence[_Entry], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for entry in entries:
        header[entry.tensor.name] = {
            "dtype": SAFETENSORS_DTYPES[entry.dtype],
            "shape": list(entry.tensor.shape),
            "data_offsets": [offset, offset + entry.size],
        }
        offset += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    # Tensors start on 8-byte boundaries, as the reference implementation aligns them.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _converted(rows: torch.Tensor, entry: _Entry, allow_overflow: bool) -> torch.Tensor:
    if rows.dtype == entry.dtype:
        return rows
    converted = rows.to(entry.dtype)
    if not allow_overflow and torch.finfo(entry.dtype).max < torch.finfo(rows.dtype).max:
        overflown = converted.isinf() & rows.isfinite()
        if bool(overflown.any()):
            raise OperationError(
                f"{entry.tensor.name} holds values up to {rows.abs().max().item():.3g}.",
                f"{entry.dtype} ends at {torch.finfo(entry.dtype).max:.3g}, so they would become "
                f"infinite.",
                "Convert to bfloat16 or float32, or accept it with --allow-overflow.",
            )
    return converted


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor in row-major order; a view where the tensor lies so already."""
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())


def row_blocks(
    tensor: PlannedTensor, source: TensorSource, itemsize: int
) -> Iterator[torch.Tensor]:
    """A planned tensor as consecutive groups of rows of about 16 MB, `itemsize` bytes a value."""
    rows_total = tensor.shape[0]
    row_bytes = max(1, prod(tensor.shape) // max(1, rows_total) * itemsize)
    step = max(1, _BLOCK_BYTES // row_bytes)
    for piece in tensor.pieces:
        for start in range(piece.start, piece.stop, step):
            yield source.rows(piece.name, start, min(start + step, piece.stop))


def write_shard(
    file: BinaryIO,
    shard: Shard,
    source: TensorSource,
    *,
    allow_overflow: bool = False,
    metadata: Mapping[str, str] | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> str:
    """Write one file and return its digest, "sha256:…".

    Args:
        file: open for writing, and empty.
        shard: the tensors.
        source: the tensors that the plan's pieces name.
        allow_overflow: as in `Cast`.
        metadata: further entries of the header's `__metadata__`.
        advance: called with the bytes of each block written.

    Raises:
        OperationError: a finite value has no finite counterpart in the dtype asked for.
    """
    header = _header(shard.entries, metadata or {})
    with BackgroundDigest() as digest:
        digest.update(header)
        file.write(header)
        for entry in shard.entries:
            itemsize = max(entry.dtype.itemsize, source.dtype(entry.tensor.pieces[0].name).itemsize)
            for rows in row_blocks(entry.tensor, source, itemsize):
                data = tensor_bytes(_converted(rows, entry, allow_overflow))
                digest.update(data)
                file.write(data)
                advance(len(data))
    return digest.digest


def write_index(folder: Path, shards: Sequence[Shard]) -> str:
    """Write the index that tells the shard of each tensor; returns its name."""
    weight_map = {entry.tensor.name: shard.name for shard in shards for entry in shard.entries}
    total = sum(shard.data_size for shard in shards)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    name = "diffusion_pytorch_model.safetensors.index.json"
    (folder / name).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return name
