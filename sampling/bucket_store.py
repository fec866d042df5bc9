"""OUT as a prefix in a bucket: s3://, gs:// or az://, where every object appears whole."""

import mimetypes
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from sampling.bucket_access import key_below, opened, output_errors
from sampling.bucket_log import BucketLog
from sampling.output_store import checked_name, is_output, temporary_name
from weights.buckets import bucket_errors, object_key, open_bucket


@dataclass(frozen=True, slots=True)
class BucketStore:
    """An OutputStore at `url`, which has no slash at its end.

    A large file goes up in parts. Those of a process that is killed are never an object, but the
    bucket keeps them until a lifecycle rule aborts the upload.
    """

    url: str

    def put(self, name: str, file: Path) -> None:
        kind = mimetypes.guess_type(checked_name(name))[0] or "application/octet-stream"
        with output_errors(self.url):
            opened(self.url).put(key_below(self.url, name), file, attributes={"Content-Type": kind})

    def names(self) -> set[str]:
        with output_errors(self.url):
            listed = opened(self.url).list_with_delimiter(key_below(self.url, "") or None)
        names = {entry["path"].rpartition("/")[2] for entry in listed["objects"]}
        return {name for name in names if is_output(name)}

    def record_log(self) -> BucketLog:
        return BucketLog(self.url)


def open_bucket_store(out: str) -> BucketStore:
    """Check that the prefix `out` can be listed and written, by an object that is removed again.

    Raises:
        UserError: it is no such URL, there is no such bucket, or there are no credentials.
        OperationError: the server denies it, or can't be reached.
    """
    object_key(out)
    url = out.removesuffix("/")
    probe = key_below(url, temporary_name("writable", token_hex(4)))
    store = open_bucket(url)
    with bucket_errors(url):
        store.list_with_delimiter(probe)
        store.put(probe, b"")
        store.delete(probe)
    return BucketStore(url)
