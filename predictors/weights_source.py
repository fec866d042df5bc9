"""What COGVIDEOX_WEIGHTS names, as a folder on this disk that is ready to load."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weights.errors import UserError
from weights.folder import check_weights_folder, variant_of
from weights.install import install
from weights.lock import read_lock
from weights.variants import VARIANTS, Dtype, Task, Variant, variant_named

ROOT = Path(__file__).resolve().parents[1]
# Locks of weights packed on this machine come before the published ones.
LOCK_DIRECTORIES = (ROOT / "checkpoints", ROOT / "weights" / "locks")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyWeights:
    """A checked weights folder, the variant it holds and the dtype it is stored in."""

    folder: Path
    variant: Variant
    dtype: Dtype


def resolve_weights(source: str, task: Task) -> ReadyWeights:
    """Find the weights that `source` names and install them if it names a lock.

    Args:
        source: a variant's name, a `*.lock.json`, or a weights folder; names come first.
        task: what the weights must be for.

    Raises:
        UserError: `source` names nothing, not a weights folder, or weights for another task.
        OperationError: the weights could not be installed.
    """
    path = Path(source)
    if source in VARIANTS:
        _require_task(variant_named(source), task, source)
        folder = _installed(_lock_of(source))
    elif source.endswith(".lock.json") and path.is_file():
        folder = _installed(path)
    elif path.is_dir():
        folder = path
    else:
        raise UserError(
            f"COGVIDEOX_WEIGHTS is {source!r}, and there is nothing of that name.",
            "It must be a weights folder, a *.lock.json or a variant's name "
            f"({', '.join(VARIANTS)}).",
            "Correct the path, or use `nano` for the small model that comes with the project.",
        )
    checked = check_weights_folder(folder)
    _require_text_encoder(folder)
    variant = variant_of(checked)
    _require_task(variant, task, source)
    return ReadyWeights(
        folder=folder.resolve(), variant=variant, dtype=checked.dtype or variant.dtype
    )


def _lock_of(name: str) -> Path:
    paths = [directory / f"{name}.lock.json" for directory in LOCK_DIRECTORIES]
    for path in paths:
        if path.is_file():
            return path
    raise UserError(
        f"There is no lock for {name} here.",
        f"It is looked for as {' and '.join(map(str, paths))}.",
        "Run `cogvideox nano` to make it."
        if name == "nano"
        else "Convert and pack the weights (`cogvideox convert`, `cogvideox pack`), "
        "or set COGVIDEOX_WEIGHTS to a weights folder or a lock.",
    )


def _installed(lock_path: Path) -> Path:
    lock = read_lock(lock_path)
    cache = os.environ.get("COGVIDEOX_CACHE")
    directory = Path(cache) if cache else ROOT / "checkpoints" / "installed"
    # The digest keeps two locks of one name apart; an unpinned lock has none.
    version = lock.digest.removeprefix("sha256:")[:12] if lock.digest else "unpinned"
    destination = directory / f"{lock.name}-{version}"
    return install(lock, destination, progress=_line_per_gigabyte(lock.name))


def _line_per_gigabyte(name: str) -> Callable[[int], None]:
    done = 0

    def report(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if done // 10**9 > before // 10**9:
            print(f"Installing {name}: {done // 10**9} GB", flush=True)

    return report


def _require_text_encoder(folder: Path) -> None:
    """A conversion without a T5 writes a folder that is whole but cannot sample."""
    for part in ("text_encoder", "tokenizer"):
        if not (folder / part).is_dir():
            raise UserError(
                f"The weights folder {folder} has no {part}/.",
                "A prompt cannot be read without it.",
                "Convert again with --text-encoder, or copy the part from another folder of the "
                "same model and name it in model_index.json.",
            )


def _require_task(variant: Variant, task: Task, source: str) -> None:
    if variant.task != task:
        fitting = ", ".join(v.name for v in VARIANTS.values() if v.task == task)
        raise UserError(
            f"COGVIDEOX_WEIGHTS is {source!r}: {variant.name}, a model for {variant.task}.",
            f"This predictor is for {task}: {fitting}.",
            f"Use the weights of one of these, or the predictor for {variant.task}.",
        )
