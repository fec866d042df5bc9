"""Write a weights folder as a reproducible tarball, and beside it the lock that names its digests.

The same folder always gives the same bytes. OUT.tar comes with OUT.lock.json, which `cogvideox
fetch` installs from. With --split the files are written one by one into the new folder OUT instead,
beside the same kind of lock. Say with --url where you will upload them; without it the lock points
to what lies beside itself.
"""

import argparse
import json
from pathlib import Path

from cli.progress import byte_progress
from weights.byte_sizes import shown_size
from weights.errors import OperationError, UserError
from weights.folder import check_weights_folder, list_files
from weights.lock import lock_fields, write_lock
from weights.packing.split import pack_split
from weights.packing.tarball import pack

EXAMPLES = """examples:
  cogvideox pack checkpoints/my-5b checkpoints/my-5b.tar
  cogvideox pack checkpoints/my-5b checkpoints/my-5b.tar --url https://example.com/my-5b.tar
  cogvideox pack checkpoints/my-5b checkpoints/my-5b-files --split
  cogvideox pack checkpoints/my-5b checkpoints/my-5b-files --split --url s3://bucket/my-5b/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a diffusers folder")
    parser.add_argument(
        "output", type=Path, metavar="OUT", help="the tarball to write; with --split, the folder"
    )
    parser.add_argument(
        "--split", action="store_true", help="write the files one by one instead of a tarball"
    )
    parser.add_argument(
        "--url",
        help="where it will be: http(s)://, s3://, gs://, az://, file:// or a path; "
        "with --split it ends in /",
    )
    parser.add_argument("--name", help="name of the weights (default: the variant's)")
    parser.add_argument("--json", action="store_true", help="print the lock as JSON")


def _lock_file(options: argparse.Namespace) -> Path:
    output: Path = options.output
    file = output.parent / f"{output.name if options.split else output.stem}.lock.json"
    if file.is_dir():
        raise UserError(
            f"The lock would be {file}, which is a folder.",
            "A file is expected there, or nothing.",
            "Move the folder away, or choose another name.",
        )
    return file


def run(options: argparse.Namespace) -> int:
    check_weights_folder(options.folder)
    lock_file = _lock_file(options)
    write = pack_split if options.split else pack
    total = sum((options.folder / path).stat().st_size for path in list_files(options.folder))
    with byte_progress("Packing", total) as advance:
        lock = write(
            options.folder, options.output, url=options.url, name=options.name, progress=advance
        )
    try:
        write_lock(lock, lock_file)
    except OSError as error:
        raise OperationError(
            f"{options.output} is written, but {lock_file} is not: {error}.",
            "A lock is expected beside it.",
            "Correct that, remove what is written and pack again.",
        ) from error
    if options.json:
        print(json.dumps(lock_fields(lock), indent=2))
    else:
        size = shown_size(lock.size or lock.files_size)
        print(f"Packed {len(lock.files)} files, {size}: {options.output}, {lock_file}")
    return 0
