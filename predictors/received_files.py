"""The files that Cog fetches for a request, within limits that Cog has not.

Cog 0.23 downloads the URL of a file input before it calls the runner: as much as comes, for as long
as it comes, and what it has of a download that fails stays in the temporary directory for good. A
URL that never ends would fill the container's disk.

It downloads in a thread that goes on when the request is cancelled, and then nobody removes the
file. So these files lie where what is old is removed.
"""

from pathlib import Path
from typing import Any

from predictors.download import download
from predictors.input_image import MAX_BYTES
from predictors.outputs import new_output
from weights.errors import UserError

LIMIT_SECONDS = 60.0
_MALFORMED = (
    "A file in the request is neither a URL nor a data URI that can be read. An http(s) URL is "
    "expected, or data:TYPE;base64, and the file in base64. Correct it."
)


def limit_received_files(
    limit_bytes: int = MAX_BYTES, limit_seconds: float = LIMIT_SECONDS
) -> None:
    """Replace Cog's download of file inputs in this process by one that keeps to these limits.

    `cog.types.URLPath.convert` is what the server calls for each of them; it returns the path of a
    temporary file, which the server removes after the prediction, unless that was cancelled before.
    Before that `cog.Path.validate` takes data URIs apart, and what it says of those that are
    malformed nobody would understand.
    """
    import cog

    as_cog_reads = cog.types.Path.validate.__func__

    def validated(cls: type, value: Any) -> Path:
        try:
            path: Path = as_cog_reads(cls, value)
        except ValueError as error:
            raise ValueError(_MALFORMED) from error
        return path

    def received(url_path: Any) -> Path:
        if url_path._path is None:
            path = new_output(f"-{url_path.filename}", "received")
            try:
                with path.open("xb") as file:
                    _write(url_path, file, limit_bytes, limit_seconds)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            url_path._path = cog.Path(path)
        converted: Path = url_path._path
        return converted

    cog.URLPath.convert = received
    cog.Path.validate = classmethod(validated)


def _write(url_path: Any, file: Any, limit_bytes: int, limit_seconds: float) -> None:
    if url_path.source.startswith("data:"):
        content = url_path.fileobj.read()
        if len(content) > limit_bytes:
            raise UserError(
                f"A file in the request has {len(content) / 1e6:.0f} MB.",
                f"It may have {limit_bytes / 1e6:.0f} MB.",
                "Make it smaller.",
            )
        file.write(content)
        return
    # An image is no secret, and many lie on servers without TLS.
    download(
        url_path.source,
        file,
        limit_bytes=limit_bytes,
        limit_seconds=limit_seconds,
        plain_http=True,
    )
