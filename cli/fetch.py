"""Install the weights a lock names: downloaded, verified, and at DIR all at once or not at all.

What is at DIR already is kept if it is the same install; a damaged or another one is moved aside.
A fetch that was interrupted goes on where it stopped. Private buckets (s3://, gs://, az://) are
read with the credentials of the environment.
"""

import argparse
import json
import os
import shlex
from pathlib import Path

from cli.progress import byte_progress
from weights.errors import UserError
from weights.fetching.engines import VARIABLE, engine_named
from weights.fetching.settings import FetchSettings
from weights.install import install
from weights.install_check import check_install
from weights.lock import lock_fields, read_lock
from weights.log_lines import show_log
from weights.paths import MARKER

EXAMPLES = """examples:
  cogvideox fetch my-5b.lock.json checkpoints/my-5b
  cogvideox fetch weights/locks/cogvideox-5b.lock.json checkpoints/cogvideox-5b
  cogvideox fetch my-5b.lock.json checkpoints/my-5b --public-key key.pub
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lock", type=Path, metavar="LOCK", help="a .lock.json file")
    parser.add_argument("destination", type=Path, metavar="DIR", help="where to install")
    parser.add_argument(
        "--engine",
        default=os.environ.get(VARIABLE) or "auto",
        help=f"auto, builtin or pget (default: ${VARIABLE}, else auto)",
    )
    parser.add_argument(
        "--connections",
        type=int,
        default=FetchSettings().connections,
        help="parallel downloads of the builtin engine (default: %(default)s)",
    )
    parser.add_argument(
        "--public-key", type=Path, metavar="KEY", help="refuse weights this key did not sign"
    )
    parser.add_argument(
        "--signature",
        type=Path,
        metavar="FILE",
        help="the signature (default: beside the weights, with .sig)",
    )
    parser.add_argument("--json", action="store_true", help="print path and marker as JSON")


def _settings(connections: int) -> FetchSettings:
    if connections < 1:
        raise UserError(
            f"--connections is {connections}.",
            "At least 1 is expected.",
            "Correct --connections, or leave it out.",
        )
    return FetchSettings(connections=connections)


def run(options: argparse.Namespace) -> int:
    show_log()
    lock = read_lock(options.lock)
    engine = engine_named(options.engine)
    settings = _settings(options.connections)
    if options.signature and not options.public_key:
        raise UserError(
            "--signature is given without --public-key.",
            "Both are expected, or neither.",
            "Add the key that the signature is to be checked with, or leave the signature out.",
        )
    if options.public_key:
        from weights.signature import check_signature

        check_signature(lock, options.public_key, options.signature)
    with byte_progress("Fetching", lock.files_size or lock.size) as advance:
        path = install(
            lock, options.destination, engine=engine, settings=settings, progress=advance
        )
    marker = check_install(path)
    if options.json:
        print(json.dumps({"path": str(path), "marker": lock_fields(marker)}, indent=2))
        return 0
    print(
        f"Installed {marker.name}: {len(marker.files)} files, {marker.files_size} bytes, in {path}"
    )
    if not lock.pinned:
        copy = shlex.join(["cp", str(path / MARKER), str(options.lock)])
        print(f"To pin these digests: {copy}")
    return 0
