"""Install the weights a lock names: downloaded, verified, and at DIR all at once or not at all.

What is at DIR already is kept if it is the same install; a damaged or another one is moved aside.
"""

import argparse
import json
from pathlib import Path

from cli.progress import byte_progress
from weights.install import check_install, install
from weights.lock import lock_fields, read_lock

EXAMPLES = """examples:
  cogvideox fetch my-5b.lock.json checkpoints/my-5b
  cogvideox fetch weights/locks/cogvideox-5b.lock.json checkpoints/cogvideox-5b
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lock", type=Path, metavar="LOCK", help="a .lock.json file")
    parser.add_argument("destination", type=Path, metavar="DIR", help="where to install")
    parser.add_argument("--json", action="store_true", help="print path and marker as JSON")


def run(options: argparse.Namespace) -> int:
    lock = read_lock(options.lock)
    with byte_progress("Fetching", lock.size) as advance:
        path = install(lock, options.destination, progress=advance)
    marker = check_install(path)
    if options.json:
        print(json.dumps({"path": str(path), "marker": lock_fields(marker)}, indent=2))
    else:
        size = sum(file.size for file in marker.files)
        print(f"Installed {marker.name}: {len(marker.files)} files, {size} bytes, in {path}")
    return 0
