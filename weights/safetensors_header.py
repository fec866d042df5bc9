"""Reads and checks the header of a .safetensors file, without torch.

The format: 8 bytes with the header's length (little endian), the header (JSON), the tensors' bytes.
The header names each tensor's dtype, shape and span; spans are relative to the end of the header.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights.errors import UserError
from weights.json_file import parse_object

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library

# More is no tensor, and arithmetic on it would take time.
_MAX_DIMENSIONS = 64
_MAX_COUNT = 2**63

_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file. `start` and `end` are bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_COUNT


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _entry(name: str, fields: Any) -> TensorEntry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {_shown(name)} needs dtype, shape and data_offsets")
    dtype, shape, span = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"tensor {_shown(name)} has the unknown dtype {_shown(dtype)}")
    too_many = isinstance(shape, list) and len(shape) > _MAX_DIMENSIONS
    if not isinstance(shape, list) or too_many or not all(map(_is_count, shape)):
        raise ValueError(f"tensor {_shown(name)} has the shape {_shown(shape)}")
    if not isinstance(span, list) or len(span) != 2 or not all(map(_is_count, span)):
        raise ValueError(f"tensor {_shown(name)} has the span {_shown(span)}")
    start, end = span
    if end - start != math.prod(shape) * _BITS[dtype] // 8:
        raise ValueError(f"tensor {_shown(name)} spans {end - start} bytes, not those of its shape")
    return TensorEntry(dtype, tuple(shape), start, end)


def _parse(path: Path) -> dict[str, TensorEntry]:
    if not path.is_file():
        raise ValueError("there is no such regular file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        data_size = size - _LENGTH_BYTES - length
        if data_size < 0 or length > _MAX_HEADER_BYTES:
            raise ValueError(f"it has {size} bytes, and its header would have {length}")
        header = parse_object(file.read(length))
    header.pop("__metadata__", None)
    entries = {name: _entry(name, fields) for name, fields in header.items()}
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            raise ValueError(
                f"tensor {_shown(name)} starts at byte {entry.start}, not at {position}"
            )
        position = entry.end
    if position != data_size:
        raise ValueError(f"its tensors end at byte {position} of {data_size}")
    return entries


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read the header of a .safetensors file and check that it describes exactly that file.

    Takes well under a millisecond for a shard of any size: no tensor is read.

    Raises:
        UserError: the file is missing, damaged, truncated or no safetensors file.
    """
    try:
        return _parse(path)
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{path} is not a whole .safetensors file ({reason}).",
            "A valid header is expected, followed by exactly the tensors it lists.",
            "Get or write the file again.",
        ) from None


def header_digest(path: Path) -> str:
    """`sha256:<hex>` of a .safetensors file's first bytes: the header's length and the header.

    Tells whether the header is the one it was, without parsing it.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES)
        length = min(int.from_bytes(start, "little"), _MAX_HEADER_BYTES)
        return f"sha256:{hashlib.sha256(start + file.read(length)).hexdigest()}"
