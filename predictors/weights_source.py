"""What COGVIDEOX_WEIGHTS names, as a folder on this disk that is ready to load."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weights.caching.cache import cache_from_environment
from weights.caching.holds import Use
from weights.caching.use import use_install
from weights.errors import UserError
from weights.folder import check_weights_folder, variant_of
from weights.lock import read_lock
from weights.log_lines import show_log
from weights.variants import VARIANTS, Dtype, Task, Variant, variant_named

ROOT = Path(__file__).resolve().parents[1]
# Locks of weights packed on this machine come before the published ones.
LOCK_DIRECTORIES = (ROOT / "checkpoints", ROOT / "weights" / "locks")
# The cache, where COGVIDEOX_CACHE names no other.
INSTALLED = ROOT / "checkpoints" / "installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyWeights:
    """A checked weights folder, the variant it holds and the dtype it is stored in."""

    folder: Path
    variant: Variant
    dtype: Dtype


def resolve_weights(source: str, task: Task | None) -> ReadyWeights:
    """Find the weights that `source` names and install them if it names a lock.

    An install in the cache stays there for as long as this process lives: it is held against
    eviction. A folder that `source` names is the user's, and nothing holds it.

    Args:
        source: a variant's name, a `*.lock.json`, or a weights folder; names come first.
        task: what the weights must be for; None: for any.

    Raises:
        UserError: `source` names nothing, not a weights folder, or weights for another task.
        OperationError: the weights could not be installed.
    """
    path = Path(source)
    if source in VARIANTS:
        _require_task(variant_named(source), task, source)
        return _ready_install(_lock_of(source), source, task)
    if source.endswith(".lock.json") and path.is_file():
        return _ready_install(path, source, task)
    if path.is_dir():
        return _ready(path, source, task)
    raise UserError(
        f"COGVIDEOX_WEIGHTS is {source!r}, and there is nothing of that name.",
        f"It must be a weights folder, a *.lock.json or a variant's name ({', '.join(VARIANTS)}).",
        "Correct the path, or use `nano` for the small model that comes with the project.",
    )


def _ready_install(lock_path: Path, source: str, task: Task | None) -> ReadyWeights:
    use = _used(lock_path)
    try:
        return _ready(use.path, source, task)
    except BaseException:
        # Only what serves is held: otherwise it lasts until this process ends.
        use.release()
        raise


def _ready(folder: Path, source: str, task: Task | None) -> ReadyWeights:
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


def _used(lock_path: Path) -> Use:
    show_log(own_stderr=True)
    lock = read_lock(lock_path)
    cache = cache_from_environment(INSTALLED)
    return use_install(cache, lock, progress=_line_per_gigabyte(lock.name))


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


def _require_task(variant: Variant, task: Task | None, source: str) -> None:
    if task not in (None, variant.task):
        fitting = ", ".join(v.name for v in VARIANTS.values() if v.task == task)
        raise UserError(
            f"COGVIDEOX_WEIGHTS is {source!r}: {variant.name}, a model for {variant.task}.",
            f"This predictor is for {task}: {fitting}.",
            f"Use the weights of one of these, or the predictor for {variant.task}.",
        )
