"""Write nano in SAT's layout, convert it and pack it, below checkpoints/."""

import argparse
import json
from pathlib import Path

EXAMPLES = """examples:
  cogvideox nano
  cogvideox serve t2v --weights nano
"""

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKPOINTS = REPOSITORY / "checkpoints"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the paths as JSON")


def write_nano_checkpoint(checkpoints: Path) -> Path:
    """The nano SAT directory below `checkpoints`, written if it is not there yet."""
    from weights.variants import VARIANTS

    source = checkpoints / "nano-sat"
    if not source.is_dir():
        from conversion.random_checkpoint import write_random_checkpoint

        write_random_checkpoint(VARIANTS["nano"], source)
    return source


def convert_nano(checkpoints: Path) -> Path:
    """The nano diffusers folder below `checkpoints`, converted if it is not there yet."""
    folder = checkpoints / "nano"
    source = write_nano_checkpoint(checkpoints)
    if not folder.is_dir():
        from conversion.convert import convert
        from conversion.plan import plan_conversion

        convert(plan_conversion(source), folder)
    return folder


def prepare_nano(checkpoints: Path | None = None) -> Path:
    """The lock of nano's tarball below `checkpoints`, made with all that comes before it.

    What is there already is used; each stage appears whole or not at all, so an interrupted run is
    taken up where it stopped.
    """
    root = checkpoints or CHECKPOINTS
    tarball, lock = root / "nano.tar", root / "nano.lock.json"
    if not (tarball.is_file() and _is_lock(lock)):
        from weights.lock import write_lock
        from weights.packing.tarball import pack

        write_lock(pack(convert_nano(root), tarball, name="nano"), lock)
    return lock


def _is_lock(path: Path) -> bool:
    """Whether there is a lock that this version reads; an earlier one may have left another."""
    from weights.errors import UserError
    from weights.lock import read_lock

    try:
        read_lock(path)
    except UserError:
        return False
    return True


def run(options: argparse.Namespace) -> int:
    lock = prepare_nano()
    paths = {
        "checkpoint": CHECKPOINTS / "nano-sat",
        "folder": CHECKPOINTS / "nano",
        "tarball": CHECKPOINTS / "nano.tar",
        "lock": lock,
    }
    if options.json:
        print(json.dumps({name: str(path) for name, path in paths.items()}, indent=2))
    else:
        print("\n".join(f"{name:11} {path}" for name, path in paths.items()))
    return 0
