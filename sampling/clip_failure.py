"""What is said of a clip that failed, and which failures end the run."""

import errno
from typing import Any

from weights.errors import OperationError, UserError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# A library's message may quote half a tensor.
_LONGEST = 500


def failure_message(error: Exception) -> str:
    """One line for the manifest."""
    if isinstance(error, UserError):
        return str(error)
    if _is_out_of_memory(error):
        return (
            "There is not enough memory for it. Ask for fewer frames, use a smaller --batch or set "
            "COGVIDEOX_MEMORY to a way of offloading."
        )
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def end_if_hopeless(line: int, error: Exception, device: Any) -> None:
    """Raise where no other line would fare better, with the line that it happened to.

    Raises:
        OperationError: a disk is full, OUT can't be written any more, or the GPU does not answer.
    """
    from predictors.health import healthy
    from sampling.output_store import OutputError

    if isinstance(error, OutputError):
        raise OutputError(f"Line {line}: {error.given}", error.expected, error.remedy) from None
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        raise OutputError(
            f"Line {line}: there is no space left for its video ({error.strerror}).",
            "A video is encoded in the temporary directory before it is put in OUT.",
            "Free some space or set TMPDIR, then give the same command again: it goes on.",
        ) from error
    if not healthy(device):
        raise OperationError(
            f"Line {line}: the GPU does not answer any more ({type(error).__name__}: {error}).",
            "After such an error nothing works on it in this process.",
            "Give the same command again: it goes on.",
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError)
