"""From what the user calls OUT to the store that it names."""

import re

from sampling.bucket_store import open_bucket_store
from sampling.folder_store import open_folder
from sampling.output_store import OutputStore
from weights.errors import UserError
from weights.urls import BUCKET_SCHEMES, shown_url

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


def open_store(out: str) -> OutputStore:
    """The folder or the s3://, gs:// or az:// prefix `out`, after a look whether it can be written.

    The folder is made, and what killed processes left half written in it is removed. In a bucket an
    object of a few bytes is written and removed: being told so late, after the first clips, would
    cost more.

    Raises:
        UserError: it is no such place, or there are no credentials, or no right to write there.
        OperationError: the disk is full, or the bucket's server can't be reached.
    """
    if not out.strip():
        raise UserError("OUT is blank.", "A folder or the URL of a bucket is expected.", "Name it.")
    scheme = _SCHEME.match(out)
    if scheme is None:
        return open_folder(out)
    if scheme[1] not in BUCKET_SCHEMES:
        raise UserError(
            f"{shown_url(out)} can't be written to.",
            "A folder is expected, or the URL of a place in a bucket: s3://, gs:// or az://.",
            "Choose one of these.",
        )
    return open_bucket_store(out)
