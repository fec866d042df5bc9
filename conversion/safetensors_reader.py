"""Opens .safetensors files: memory-mapped, and checked before torch is imported.

The format and its limits are those of the safetensors README; weights.safetensors_header checks
that the tensors fill the file without gap or overlap. What is refused here beyond that would only
make the check itself slow: a header of 100 MB is legal, and no checkpoint has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from weights.errors import UserError
from weights.json_file import parse_object
from weights.safetensors_header import TensorEntry, read_header

if TYPE_CHECKING:
    import torch

_LENGTH_BYTES = 8
# Some 25,000 tensors; a 5B model has 1,200.
_MAX_HEADER_BYTES = 4 << 20
_MAX_ENTRY_CHARACTERS = 1000

_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}


def has_safetensors_start(path: Path) -> bool:
    """Whether a file starts as a .safetensors file does: a length, then the brace of its header."""
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES + 1)
    return start[_LENGTH_BYTES:] == b"{"


def _check_header_size(path: Path) -> None:
    """Refuse headers that are legal JSON and would take seconds or gigabytes to go through."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > _MAX_HEADER_BYTES:
            raise ValueError(f"its header would have {length} bytes")
        header = parse_object(file.read(length))
    for name, fields in header.items():
        # The product of a shape with a million dimensions takes minutes.
        if name != "__metadata__" and len(repr(fields)) > _MAX_ENTRY_CHARACTERS:
            raise ValueError(f"tensor {name[:80]!a} has an entry of absurd length")


def check_safetensors(path: Path) -> dict[str, TensorEntry]:
    """Check the header of a .safetensors file and give its tensors' places.

    Raises:
        ValueError: why it is not a whole .safetensors file.
    """
    try:
        _check_header_size(path)
        return read_header(path)
    except RecursionError:
        reason = "its header is nested too deeply"
    except ValueError as error:
        reason = str(error)
    except UserError as error:
        reason = error.given.partition(" (")[2].rstrip(".)")
    raise ValueError(f"it is not a whole .safetensors file ({reason})")


def map_tensors(path: Path, entries: Mapping[str, TensorEntry]) -> dict[str, torch.Tensor]:
    """The tensors of a file as views of it; `entries` is what `check_safetensors` gave.

    The mapping is private, as that of torch.load(mmap=True): writing to a tensor never reaches
    the file.
    """
    import torch

    size = path.stat().st_size
    whole = torch.UntypedStorage.from_file(str(path), False, size)
    data_start = size - max((entry.end for entry in entries.values()), default=0)
    tensors = {}
    for name, entry in entries.items():
        dtype = getattr(torch, _DTYPES[entry.dtype])
        span = whole[data_start + entry.start : data_start + entry.end]
        tensors[name] = torch.empty(0, dtype=dtype).set_(span, 0, entry.shape)
    return tensors
