"""Where weights at rest may be: on the web, in a bucket, in a file, or beside their lock."""

import re
import unicodedata
from urllib.parse import urlsplit, urlunsplit

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
BUCKET_SCHEMES = ("s3", "gs", "az")
SCHEMES = ("http", "https", *BUCKET_SCHEMES, "file")
# The same in words, for messages.
PLACES = "http(s)://, s3://, gs://, az://, file:// or a path relative to the lock's folder"


def is_relative(url: str) -> bool:
    """Whether `url` is a path, relative to the folder of the lock that holds it."""
    return _SCHEME.match(url) is None


def url_problem(url: str) -> str | None:
    """Why `url` can't be the place of a tarball, or None if it can."""
    if not url or url.startswith("/"):
        return "is empty or an absolute path; write file:///… for a file"
    if any(unicodedata.category(character)[0] in "CZ" for character in url if character != " "):
        return "has a control character"
    scheme = _SCHEME.match(url)
    if scheme is None:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port  # a property that raises when it is not a number
    except ValueError as error:
        return f"is malformed ({error})"
    if parts.scheme not in SCHEMES:
        return f"has the scheme {parts.scheme}, not one of {', '.join(SCHEMES)}"
    if parts.scheme == "file" and parts.hostname not in (None, "localhost"):
        return "names another host; write file:///… for a file"
    if parts.scheme != "file" and not parts.hostname:
        return "names no host"
    return None


def shown_url(url: str) -> str:
    """`url` without what may be secret: user, password, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
