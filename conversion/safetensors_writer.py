"""Writes planned tensors as sharded safetensors, a few megabytes at a time.

Format: https://github.com/huggingface/safetensors (8 bytes header length, JSON header, tensors).
The header is known from the plan, so each tensor goes from the memory-mapped checkpoint straight
to its place; nothing is held but the rows under way.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from conversion.rules import PlannedTensor
from weights.errors import OperationError

MAX_SHARD_BYTES = 5_000_000_000
_BLOCK_BYTES = 16 << 20

_SAFETENSORS_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
}


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A finished file: path relative to the folder, bytes, "sha256:…"."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class _Entry:
    tensor: PlannedTensor
    dtype: torch.dtype

    @property
    def size(self) -> int:
        return prod(self.tensor.shape) * int(self.dtype.itemsize)


def _entries(
    plan: Sequence[PlannedTensor], source: Mapping[str, torch.Tensor], dtype: torch.dtype | None
) -> list[_Entry]:
    return [
        _Entry(tensor, dtype or source[tensor.pieces[0].name].dtype)
        for tensor in sorted(plan, key=lambda tensor: tensor.name)
    ]


def _shards(entries: Sequence[_Entry], limit: int) -> list[list[_Entry]]:
    shards: list[list[_Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.size > limit:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.size
    return shards


def _header(entries: Sequence[_Entry]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        header[entry.tensor.name] = {
            "dtype": _SAFETENSORS_DTYPES[entry.dtype],
            "shape": list(entry.tensor.shape),
            "data_offsets": [offset, offset + entry.size],
        }
        offset += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    # Tensors start on 8-byte boundaries, as the reference implementation aligns them.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _cast(rows: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    cast = rows.to(dtype)
    if cast.dtype.itemsize < rows.dtype.itemsize:
        overflown = cast.isinf() & rows.isfinite()
        if bool(overflown.any()):
            raise OperationError(
                f"{name} holds values up to {rows.abs().max().item():.3g}.",
                f"{dtype} ends at {torch.finfo(dtype).max:.3g}, so they would become infinite.",
                "Convert to bfloat16 or float32 instead.",
            )
    return cast


def _blocks(entry: _Entry, source: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    for piece in entry.tensor.pieces:
        whole = source[piece.name]
        row_bytes = max(1, prod(whole.shape[1:]) * max(whole.dtype.itemsize, entry.dtype.itemsize))
        step = max(1, _BLOCK_BYTES // row_bytes)
        for start in range(piece.start, piece.stop, step):
            rows = whole[start : min(start + step, piece.stop)]
            if rows.dtype != entry.dtype:
                rows = _cast(rows, entry.dtype, entry.tensor.name)
            flat = rows.contiguous().view(-1).view(torch.uint8)
            yield memoryview(flat.numpy())


def _write_shard(
    path: Path,
    entries: Sequence[_Entry],
    source: Mapping[str, torch.Tensor],
    advance: Callable[[int], object],
) -> WrittenFile:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        header = _header(entries)
        file.write(header)
        digest.update(header)
        for entry in entries:
            for data in _blocks(entry, source):
                file.write(data)
                digest.update(data)
                advance(len(data))
    return WrittenFile(path.name, path.stat().st_size, f"sha256:{digest.hexdigest()}")


def planned_bytes(
    plan: Sequence[PlannedTensor], source: Mapping[str, torch.Tensor], dtype: torch.dtype | None
) -> int:
    """Bytes of tensor data that `write_safetensors` will write."""
    return sum(entry.size for entry in _entries(plan, source, dtype))


def write_safetensors(
    folder: Path,
    plan: Sequence[PlannedTensor],
    source: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    advance: Callable[[int], object] = lambda _: None,
) -> list[WrittenFile]:
    """Write a plan under the names diffusers gives a model's files.

    Args:
        folder: an existing folder.
        plan: the tensors to write.
        source: the tensors that the plan's pieces name.
        dtype: cast to this; None keeps each tensor's own.
        max_shard_bytes: a shard is closed before it grows over this.
        advance: called with the bytes of each block written.

    Returns:
        The written files, index included.

    Raises:
        OperationError: a finite value has no finite counterpart in `dtype`.
    """
    base = "diffusion_pytorch_model"
    shards = _shards(_entries(plan, source, dtype), max_shard_bytes)
    if len(shards) == 1:
        path = folder / f"{base}.safetensors"
        return [_write_shard(path, shards[0], source, advance)]
    written = []
    weight_map: dict[str, str] = {}
    for number, entries in enumerate(shards, start=1):
        path = folder / f"{base}-{number:05}-of-{len(shards):05}.safetensors"
        written.append(_write_shard(path, entries, source, advance))
        weight_map |= {entry.tensor.name: path.name for entry in entries}
    total = sum(entry.size for entries in shards for entry in entries)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    text = (json.dumps(index, indent=2) + "\n").encode()
    path = folder / f"{base}.safetensors.index.json"
    path.write_bytes(text)
    digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
    return [*written, WrittenFile(path.name, len(text), digest)]
