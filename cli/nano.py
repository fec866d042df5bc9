"""Convert the nano models that ship in weights/ and pack them, below checkpoints/."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  cogvideox nano
  cogvideox nano nano-i2v --json
  cogvideox serve i2v --weights nano-i2v
"""

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKPOINTS = REPOSITORY / "checkpoints"
NANO_MODELS = ("nano", "nano-i2v")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="*", metavar="NAME", help=f"{' or '.join(NANO_MODELS)}; default: both"
    )
    parser.add_argument("--json", action="store_true", help="print the paths as JSON")


def shipped_checkpoint(name: str) -> Path:
    """The SAT directory; `lock.json` in it is what converting and packing gives."""
    return REPOSITORY / "weights" / name


def convert_nano(name: str, checkpoints: Path) -> Path:
    """The diffusers folder of the nano `name` below `checkpoints`, converted if it is not there.

    One of other weights than those that ship now is replaced.
    """
    folder = checkpoints / name
    record = folder / "conversion.json"
    converted = _tensor_files(json.loads(record.read_bytes())) if record.is_file() else None
    if converted != _shipped(name):
        from conversion.convert import convert
        from conversion.plan import plan_conversion

        shutil.rmtree(folder, ignore_errors=True)
        convert(plan_conversion(shipped_checkpoint(name)), folder)
    return folder


def prepare_nano(name: str, checkpoints: Path | None = None) -> Path:
    """The lock of the nano `name`'s tarball below `checkpoints`, made with all that comes before.

    What is there already is used, unless it is of other weights than those that ship now.
    """
    root = checkpoints or CHECKPOINTS
    tarball, lock = root / f"{name}.tar", root / f"{name}.lock.json"
    if not (tarball.is_file() and _locked(lock) == _shipped(name)):
        from weights.lock import write_lock
        from weights.packing.tarball import pack

        for made in (lock, tarball):
            made.unlink(missing_ok=True)
        write_lock(pack(convert_nano(name, root), tarball, name=name), lock)
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


def _shipped(name: str) -> dict[str, str] | None:
    return _locked(shipped_checkpoint(name) / "lock.json")


def run(options: argparse.Namespace) -> int:
    from weights.errors import UserError

    unknown = [name for name in options.name if name not in NANO_MODELS]
    if unknown:
        raise UserError(
            f"There is no nano model named {unknown[0]!r}.",
            f"The names are {' and '.join(NANO_MODELS)}.",
            "Use one of these, or none for both.",
        )
    reports = [_report(name, prepare_nano(name)) for name in options.name or NANO_MODELS]
    if options.json:
        print(json.dumps(reports, indent=2))
    else:
        print("\n\n".join("\n".join(f"{k:11} {v}" for k, v in r.items()) for r in reports))
    return 0


def _report(name: str, lock: Path) -> dict[str, str]:
    return {
        "name": name,
        "checkpoint": str(shipped_checkpoint(name)),
        "folder": str(CHECKPOINTS / name),
        "tarball": str(CHECKPOINTS / f"{name}.tar"),
        "lock": str(lock),
    }
