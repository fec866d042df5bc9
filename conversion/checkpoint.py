"""Opening SAT checkpoint files: memory-mapped, and nothing but tensors is ever unpickled."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conversion.rules import Shape
from weights.errors import UserError

# DeepSpeed saves the state of numpy's random generator beside the tensors. These constructors
# build arrays of plain numbers and nothing else.
_NUMPY_STATE = [
    (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),  # type: ignore[attr-defined]
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np.ndarray,
    np.dtype,
    np.dtypes.UInt32DType,
]

# Where SAT and DeepSpeed keep the model in the outer dict of a file.
_STATE_DICT_KEYS = ("module", "state_dict")


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


def _refusal(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} cannot be read as a checkpoint: {reason}.",
        "A file written by torch.save that holds nothing but tensors is expected.",
        "Check that the download is complete and that the path names the right file.",
    )


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError as error:
        raise _refusal(
            path, "it asks to run code or to build objects that are not tensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _refusal(path, f"the file is damaged ({str(error).splitlines()[0]})") from error


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint written by SAT or DeepSpeed.

    Raises:
        UserError: there is no such file, it is damaged or of another kind, it holds code, or it
            holds no tensors.
    """
    if not path.is_file():
        raise UserError(
            f"There is no file {path}.", "A checkpoint written by SAT is expected.", "Check it."
        )
    if not zipfile.is_zipfile(path):
        raise _refusal(path, "it is cut short, of another format, or no checkpoint at all")
    with _refusing(path), torch.serialization.safe_globals(_NUMPY_STATE):
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    if not isinstance(content, dict):
        raise _refusal(path, f"it holds a {type(content).__name__}, not a dict")
    return _as_checkpoint(path, content)


def _as_checkpoint(path: Path, content: dict[str, Any]) -> Checkpoint:
    inner = next((k for k in _STATE_DICT_KEYS if isinstance(content.get(k), dict)), None)
    state_dict = content if inner is None else content[inner]
    tensors = {
        name: value
        for name, value in state_dict.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise _refusal(path, "it holds no tensors")
    other = [] if inner is None else [str(key) for key in content if key != inner]
    return Checkpoint(path, tensors, tuple(other))
