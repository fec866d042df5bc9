"""Files of the caller's machine as inputs of a Cog server."""

import base64
import mimetypes
from pathlib import Path

from weights.byte_sizes import shown_size
from weights.errors import UserError

# Cog takes bodies of 100 MiB, and base64 makes four bytes of three.
_LIMIT = 70 * 2**20


def input_uri(name: str, text: str) -> str:
    """What a file input takes: an http(s) URL or data URI as it is, a file's path as a data URI.

    A path may have `@` before it, as `cog run -i image=@photo.jpg` wants it.

    Raises:
        UserError: there is no such file, or it is too large to send.
    """
    if text.startswith(("http://", "https://", "data:")):
        return text
    path = Path(text.removeprefix("@")).expanduser()
    try:
        size = path.stat().st_size
        if size > _LIMIT:
            raise UserError(
                f"{name}: {path} has {shown_size(size)}.",
                f"A request holds files of up to {shown_size(_LIMIT)}.",
                "Make it smaller, or give the http(s) URL of a place that has it.",
            )
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{name}: {path} can't be read ({error.strerror}).",
            "A file on this machine or an http(s) URL is expected.",
            "Correct the path.",
        ) from None
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
