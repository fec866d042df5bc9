"""Opening SAT checkpoint files: memory-mapped, and nothing but tensors is ever unpickled.

A file is refused, if it has to be, before torch is imported: `zip_check` and `pickle_check` for
what torch.save writes, `safetensors_reader` for the other format. torch's own restricted unpickler
comes after them, and remains the one that reads.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversion.pickle_check import check_pickle, check_size
from conversion.rules import Shape
from conversion.safetensors_reader import check_safetensors, has_safetensors_start, map_tensors
from conversion.tensor_claims import TensorClaim
from conversion.zip_check import Record, read_bytes, read_records
from weights.errors import UserError

if TYPE_CHECKING:
    import torch

# Where SAT and DeepSpeed keep the model in the outer dict of a file.
_STATE_DICT_KEYS = ("module", "state_dict")

_ZIP_START = b"PK\x03\x04"
# torch.save before 1.6, and `pickle.dump`: both start with a pickle, the former with torch's magic.
_PICKLE_START = b"\x80"

# torch reads these entries whole: byteorder, version and the like, of some ten bytes each.
_MAX_SMALL_RECORD = 64 << 10
_MAX_NAME = 500
_MAX_REASON = 300


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open checkpoint file. Its tensors are views of the file, not copies."""

    path: Path
    tensors: Mapping[str, torch.Tensor]
    other_entries: tuple[str, ...]
    """What the file holds beside the model's tensors, such as an optimiser's state."""

    def shapes(self, prefix: str) -> dict[str, Shape]:
        """Names, without `prefix`, and shapes of the tensors under `prefix`."""
        return {
            name.removeprefix(prefix): tuple(tensor.shape)
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }

    @property
    def lora_layers(self) -> tuple[str, ...]:
        """The modules that carry SAT's LoRA matrices."""
        return tuple(
            sorted({n.split(".matrix_")[0] for n in self.tensors if ".matrix_A." in n}),
        )


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a pickle holds: where the tensors are, their names, and what else is there."""

    outer: str | None
    names: tuple[str, ...]
    others: tuple[str, ...]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint written by SAT or DeepSpeed, or a .safetensors file with SAT's keys.

    The format is told by the content, not by the name. Nothing of a file is executed or imported,
    whatever it holds.

    Raises:
        UserError: there is no such file, it is damaged or of another kind, it holds code, it holds
            no tensors, or a tensor's name looks like a path.
    """
    if not path.is_file():
        given = f"{path} is not a regular file." if path.exists() else f"There is no file {path}."
        raise UserError(given, "A checkpoint written by SAT is expected.", "Check the path.")
    try:
        return _open(path)
    except (ValueError, OSError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        one_line = " ".join(reason[:_MAX_REASON].split()).rstrip(".")
        raise UserError(
            f"{path} cannot be read as a checkpoint: {one_line}.",
            "A file with nothing but tensors is expected, written by torch.save or safetensors.",
            "Check that the download is complete and that the path names the right file.",
        ) from error


def _open(path: Path) -> Checkpoint:
    with path.open("rb") as file:
        start = file.read(len(_ZIP_START))
        if start == _ZIP_START:
            contents = _check_torch_file(file.fileno())
    if start == _ZIP_START:
        return Checkpoint(path, _load(path, contents), contents.others)
    # Before the look for a pickle: a header's length may start with the same byte.
    if path.suffix == ".safetensors" or has_safetensors_start(path):
        entries = check_safetensors(path)
        _check_names(list(entries))
        return Checkpoint(path, map_tensors(path, entries), ())
    if start.startswith(_PICKLE_START):
        raise ValueError(
            "it is a plain pickle, as torch wrote it before version 1.6; where you trust it, load"
            " it with torch and save it again"
        )
    raise ValueError("it is cut short, of another format, or no checkpoint at all")


def _check_torch_file(file: int) -> _Contents:
    records = read_records(file)
    pickled = records.get("data.pkl")
    if pickled is None or "constants.pkl" in records:
        raise ValueError("it is another kind of zip file: TorchScript, or not torch's at all")
    if any(_is_large(name, record) for name, record in records.items()):
        raise ValueError("an entry beside its tensors is absurdly large")
    order = records.get("byteorder")
    if order is not None and read_bytes(file, order.offset, order.size) != b"little":
        raise ValueError("its numbers are not little-endian, as SAT's are")
    check_size(pickled)
    outline = check_pickle(read_bytes(file, pickled.offset, pickled.size), records)
    return _contents(outline)


def _is_large(name: str, record: Record) -> bool:
    return record.size > _MAX_SMALL_RECORD and name != "data.pkl" and not name.startswith("data/")


def _contents(outline: Any) -> _Contents:
    if not isinstance(outline, dict):
        raise ValueError("it holds no dict of tensors")
    outer = next((key for key in _STATE_DICT_KEYS if isinstance(outline.get(key), dict)), None)
    state_dict = outline if outer is None else outline[outer]
    names = [
        name
        for name, value in state_dict.items()
        if isinstance(name, str) and isinstance(value, TensorClaim)
    ]
    others = [] if outer is None else [str(key) for key in outline if key != outer]
    _check_names(names)
    for name in others:
        _check_name(name)
    return _Contents(outer, tuple(names), tuple(others))


def _load(path: Path, contents: _Contents) -> dict[str, torch.Tensor]:
    import numpy as np
    import torch

    # DeepSpeed saves the state of numpy's random generator beside the tensors. These constructors
    # build arrays of plain numbers and nothing else.
    reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    numpy_state = [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        reconstruct,
        np.ndarray,
        np.dtype,
        np.dtypes.UInt32DType,
    ]
    try:
        with torch.serialization.safe_globals(numpy_state):
            loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        state_dict = loaded if contents.outer is None else loaded[contents.outer]
        # Detached: a parameter, which needs gradients, cannot be read as bytes.
        return {name: state_dict[name].detach() for name in contents.names}
    except pickle.UnpicklingError as error:
        # Its message would tell the user to switch the protection off.
        raise ValueError("torch finds more in it than tensors") from error
    except Exception as error:  # whatever else torch raises here, it is about this file
        raise ValueError(f"torch does not read it ({str(error).partition(chr(10))[0]})") from error


def _check_names(names: list[str]) -> None:
    if not names:
        raise ValueError("it holds no tensors")
    for name in names:
        _check_name(name)


def _check_name(name: str) -> None:
    """Refuse names that could be taken for a path, or that a terminal would act upon.

    Names are only ever keys here. No module of torch has such a name, and tools that come after
    may not be as careful.
    """
    like_a_path = {"/", "\\"} & set(name) or ".." in name
    if like_a_path or not name.isprintable() or not 0 < len(name) <= _MAX_NAME:
        raise ValueError(f"it has an entry with the name {name[:80]!a}")
