"""Convert the nano that ships in weights/ and pack it, below checkpoints/."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  cogvideox nano
  cogvideox serve t2v --weights nano
"""

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKPOINTS = REPOSITORY / "checkpoints"
CHECKPOINT = REPOSITORY / "weights" / "nano"
"""The SAT directory; `lock.json` in it is what converting and packing gives."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the paths as JSON")


def convert_nano(checkpoints: Path) -> Path:
    """The nano diffusers folder below `checkpoints`, converted if it is not there yet.

    One of other weights than those that ship now is replaced.
    """
    folder = checkpoints / "nano"
    record = folder / "conversion.json"
    converted = _tensor_files(json.loads(record.read_bytes())) if record.is_file() else None
    if converted != _shipped():
        from conversion.convert import convert
        from conversion.plan import plan_conversion

        shutil.rmtree(folder, ignore_errors=True)
        convert(plan_conversion(CHECKPOINT), folder)
    return folder


def prepare_nano(checkpoints: Path | None = None) -> Path:
    """The lock of nano's tarball below `checkpoints`, made with all that comes before it.

    What is there already is used, unless it is of other weights than those that ship now.
    """
    root = checkpoints or CHECKPOINTS
    tarball, lock = root / "nano.tar", root / "nano.lock.json"
    if not (tarball.is_file() and _locked(lock) == _shipped()):
        from weights.lock import write_lock
        from weights.packing.tarball import pack

        for made in (lock, tarball):
            made.unlink(missing_ok=True)
        write_lock(pack(convert_nano(root), tarball, name="nano"), lock)
    return lock


def _tensor_files(record: dict[str, Any]) -> dict[str, str]:
    """Digests of the tensor files that a lock or a conversion's record lists, by path.

    The other files are configs, which another version of diffusers may write differently.
    """
    files = ((file["path"], file["digest"]) for file in record["files"])
    return {path: digest for path, digest in files if path.endswith(".safetensors")}


def _locked(path: Path) -> dict[str, str] | None:
    """The tensor files of a lock; None where there is none that this version reads."""
    from weights.errors import UserError
    from weights.lock import lock_fields, read_lock

    try:
        return _tensor_files(lock_fields(read_lock(path)))
    except UserError:
        return None


def _shipped() -> dict[str, str] | None:
    return _locked(CHECKPOINT / "lock.json")


def run(options: argparse.Namespace) -> int:
    lock = prepare_nano()
    paths = {
        "checkpoint": CHECKPOINT,
        "folder": CHECKPOINTS / "nano",
        "tarball": CHECKPOINTS / "nano.tar",
        "lock": lock,
    }
    if options.json:
        print(json.dumps({name: str(path) for name, path in paths.items()}, indent=2))
    else:
        print("\n".join(f"{name:11} {path}" for name, path in paths.items()))
    return 0
