"""What a download turned out to be, and how a LoRA in a tarball becomes a plain file.

Trainers that run under Cog pack the LoRA with what belongs to it. Nothing is ever written under a
name that an archive holds.
"""

import gzip
import io
import os
import tarfile
import tempfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from predictors.lora.source import SUFFIX
from weights.byte_sizes import shown_size
from weights.errors import UserError
from weights.paths import path_problem
from weights.safetensors_header import read_header

_CHUNK_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_TAR, _TAR_AT = b"ustar", 257
# Names take far less. tarfile reads any header into memory, and takes its time with long ones.
_MAX_HEADER_BYTES = 8 << 10
_MAX_HEADERS_BYTES = 1 << 20
_KINDS = (
    (b"PK\x03\x04", "a zip, as PyTorch's pickled checkpoints are"),
    (b"\x80", "a pickle, which can run code when it is read"),
    (b"version https://git-lfs", "Git LFS's pointer to the file"),
    (_GZIP, "compressed, and no tar"),
    (b"<", "a web page"),
    (b"{", "a JSON document"),
)


class _NoLoraError(Exception):
    """Why a LoRA can't be taken from an archive."""


class _Headers(io.FileIO):
    """A tar as tarfile reads it, which asks for nothing but headers, up to a sane size."""

    _left = _MAX_HEADERS_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= min(_MAX_HEADER_BYTES, self._left):
            raise tarfile.ReadError("too long a header")
        self._left -= size
        return super().read(size) or b""


def settle(file: BinaryIO, shown: str, limit_bytes: int) -> None:
    """Make a .safetensors file of what was downloaded: it is one, or a tar (plain or gz) with one.

    Args:
        file: on a disk, open for writing; its content is exchanged in place.
        shown: where it came from, for messages.
        limit_bytes: how large a compressed tar may be without its compression.

    Raises:
        UserError: it is neither.
    """
    file.flush()
    path = Path(file.name)
    try:
        start = _start(path)
        if start.startswith(_GZIP) or start[_TAR_AT:] == _TAR:
            _take_from_archive(path, file, limit_bytes)
        start = _start(path)
        read_header(path)
    except _NoLoraError as error:
        raise _no_lora(f"What {shown} gives is an archive, but {error}.") from None
    except UserError as error:
        # The path is one of this machine, and temporary.
        raise _no_lora(_what_it_is(start, shown) or error.given.replace(str(path), shown)) from None


def _no_lora(given: str) -> UserError:
    return UserError(
        given,
        f"A {SUFFIX} file is expected, or a tar with exactly one.",
        "Check that the URL is the file's own and not that of a page about it; convert other "
        f"formats to {SUFFIX}.",
    )


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_TAR_AT + len(_TAR))


def _what_it_is(start: bytes, shown: str) -> str | None:
    """What a file that begins so is instead of a .safetensors file, if one can tell."""
    if not start:
        return f"What {shown} gives is empty."
    if start[8:9] == b"{" and start[:1] != b"{":  # so does a .safetensors file, after its length
        return None
    text = start.lstrip()
    kinds = (kind for mark, kind in _KINDS if text.startswith(mark))
    return next((f"What {shown} gives is {kind}." for kind in kinds), None)


def _take_from_archive(path: Path, file: BinaryIO, limit_bytes: int) -> None:
    """Put the LoRA from the archive at `path` into `file`, which may be the same."""
    with ExitStack() as stack:
        tar: BinaryIO = stack.enter_context(path.open("rb"))
        if _start(path).startswith(_GZIP):
            tar = _decompressed(tar, stack.enter_context(tempfile.TemporaryFile()), limit_bytes)
        offset, size = _lora_span(tar)
        file.seek(0)
        end = offset + size
        # In one and the same file, what is written never overtakes what is read.
        while data := os.pread(tar.fileno(), min(_CHUNK_BYTES, end - offset), offset):
            offset += len(data)
            file.write(data)
        file.truncate()
        file.flush()


def _decompressed(compressed: BinaryIO, file: BinaryIO, limit_bytes: int) -> BinaryIO:
    try:
        with gzip.GzipFile(fileobj=compressed) as stream:
            while data := stream.read(_CHUNK_BYTES):
                if file.tell() + len(data) > limit_bytes:
                    raise _NoLoraError(f"it has more than {shown_size(limit_bytes)} inside")
                file.write(data)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise _NoLoraError("it is cut off or damaged") from None
    file.flush()
    return file


def _lora_span(tar: BinaryIO) -> tuple[int, int]:
    """The offset and the size, in bytes, of the one .safetensors file in a tar."""
    try:
        with _Headers(tar.fileno(), closefd=False) as headers:
            headers.seek(0)
            with tarfile.open(fileobj=headers, mode="r:") as members:
                loras = [member for member in members if _is_lora(member)]
    except (tarfile.TarError, ValueError, RecursionError):
        raise _NoLoraError("it is no tar, or a damaged one") from None
    if len(loras) != 1:
        raise _NoLoraError(f"it holds {len(loras) or 'no'} {SUFFIX} files")
    return loras[0].offset_data, loras[0].size


def _is_lora(member: tarfile.TarInfo) -> bool:
    path = member.name.removeprefix("./")
    problem = None if path == "." else path_problem(path)
    if member.size < 0 or member.issparse():
        problem = "is stored in an odd way"
    if problem:
        raise _NoLoraError(f"it holds a file that {problem}")
    # macOS packs a file's attributes as a file of almost the same name.
    return member.isreg() and path.endswith(SUFFIX) and not Path(path).name.startswith("._")
