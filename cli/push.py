"""Upload packed weights to a bucket, read them back, and write their url into the lock.

OUT is a tarball, or the folder of a split pack, with its lock beside it. A target that ends in a
slash gets the tarball's name; a signature beside OUT goes along. An object that is something else
is never overwritten without --replace; what an earlier push finished is not sent again. Large files
go in parallel parts, which an error, Ctrl-C or SIGTERM removes. Only a killed push leaves parts:
let a lifecycle rule of the bucket abort incomplete multipart uploads.

Credentials come from the environment or the cloud's own chain:
  s3  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, or the role of the
      machine; ~/.aws is not read (`aws configure export-credentials --format env` prints it so)
      another server: AWS_ENDPOINT_URL, with AWS_ALLOW_HTTP=true for plain http
  gs  GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the machine's
  az  AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or the
      machine's identity
"""

import argparse
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.progress import byte_progress
from weights.byte_sizes import shown_size
from weights.errors import OperationError, UserError
from weights.lock import read_lock, write_lock
from weights.log_lines import show_log
from weights.pushing.push import PushedFile, push
from weights.urls import shown_url

EXAMPLES = """examples:
  cogvideox push checkpoints/my-5b.tar s3://my-bucket/weights/
  cogvideox push checkpoints/my-5b.tar gs://my-bucket/my-5b.tar --replace
  cogvideox push checkpoints/my-5b-split az://my-container/my-5b/
  cogvideox push checkpoints/my-5b.tar s3://my-bucket/my-5b.tar --url https://cdn.example/my-5b.tar
  cogvideox push checkpoints/my-5b.tar "$PRESIGNED_PUT_URL" --url https://cdn.example/my-5b.tar
"""

_PROOFS = {
    "etag": "its size and the MD5 in its ETag are right",
    "content": "all of it was read back and has the right digest",
    "recorded digest": "it was there already, with the right size and recorded digest",
    "answer": "not read back, for want of --url; the server answered with the right MD5",
    None: "not read back, for want of --url",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights", type=Path, metavar="OUT", help="a packed OUT.tar, or the folder of a split pack"
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="s3://, gs:// or az:// URL, or for a tarball of at most 5 GiB a presigned PUT URL",
    )
    parser.add_argument("--lock", type=Path, help="the lock (default: OUT.lock.json)")
    parser.add_argument("--url", help="what to write into the lock: a CDN's or the public URL")
    parser.add_argument("--replace", action="store_true", help="overwrite another object there")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def _lock_file(weights: Path) -> Path:
    """Where `cogvideox pack` put the lock."""
    return weights.parent / f"{weights.name.removesuffix('.tar')}.lock.json"


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Takes SIGTERM and SIGHUP for Ctrl-C, so that they remove what was sent too."""
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _print(files: list[PushedFile], url: str, lock_file: Path, as_json: bool) -> None:
    if as_json:
        fields = {
            "url": url,
            "lock": str(lock_file),
            "files": [
                {
                    "url": file.url,
                    "size": file.size,
                    "uploaded": file.uploaded,
                    "readBack": file.read_back,
                }
                for file in files
            ],
        }
        print(json.dumps(fields, indent=2))
        return
    for file in files:
        size, what = shown_size(file.size), "uploaded" if file.uploaded else "kept"
        print(f"{what.capitalize()} {file.url} ({size}): {_PROOFS[file.read_back]}")
    print(f"{lock_file} points to {url}")


def run(options: argparse.Namespace) -> int:
    show_log()
    lock_file = options.lock or _lock_file(options.weights)
    lock = read_lock(lock_file)
    if not os.access(lock_file.absolute().parent, os.W_OK):
        raise UserError(
            f"{lock_file} can't be written.",
            "A lock is expected that the url can be written into.",
            "Copy it to a folder of yours, and give it with --lock.",
        )
    with _terminated_as_interrupted():
        lock, files = push(
            lock,
            options.weights,
            options.target,
            url=options.url,
            replace=options.replace,
            bar=byte_progress,
        )
    assert lock.url is not None
    try:
        write_lock(lock, lock_file)
    except OSError as error:
        raise OperationError(
            f"The weights are at {shown_url(lock.url)}, but {lock_file} can't be written: {error}.",
            "The url belongs into the lock.",
            "Correct that and push again; nothing is sent twice.",
        ) from error
    _print(files, lock.url, lock_file, options.json)
    return 0
