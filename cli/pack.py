"""Write a weights folder as a reproducible tarball, and beside it the lock that names its digests.

The same folder always gives the same bytes. OUT.tar comes with OUT.lock.json, which `cogvideox
fetch` installs from. Say with --url where you will upload the tarball; without it the lock points
to the tarball beside itself.
"""

import argparse
import json
from pathlib import Path

from cli.progress import byte_progress
from weights.errors import OperationError
from weights.folder import check_weights_folder, list_files
from weights.lock import lock_fields, write_lock
from weights.tarball import pack

EXAMPLES = """examples:
  cogvideox pack checkpoints/my-5b checkpoints/my-5b.tar
  cogvideox pack checkpoints/my-5b checkpoints/my-5b.tar --url https://example.com/my-5b.tar
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a diffusers folder")
    parser.add_argument("tarball", type=Path, metavar="OUT.tar", help="the tarball to write")
    parser.add_argument("--url", help="where the tarball will be: http(s)://, file:// or a path")
    parser.add_argument("--name", help="name of the weights (default: the variant's)")
    parser.add_argument("--json", action="store_true", help="print the lock as JSON")


def run(options: argparse.Namespace) -> int:
    check_weights_folder(options.folder)
    total = sum((options.folder / path).stat().st_size for path in list_files(options.folder))
    with byte_progress("Packing", total) as advance:
        lock = pack(
            options.folder, options.tarball, url=options.url, name=options.name, progress=advance
        )
    lock_file = options.tarball.with_suffix(".lock.json")
    try:
        write_lock(lock, lock_file)
    except OSError as error:
        raise OperationError(
            f"{options.tarball} is written, but {lock_file} is not: {error}.",
            "A lock is expected beside the tarball.",
            "Correct that and pack again.",
        ) from error
    if options.json:
        print(json.dumps(lock_fields(lock), indent=2))
    else:
        print(f"Packed {len(lock.files)} files, {lock.size} bytes: {options.tarball}, {lock_file}")
    return 0
