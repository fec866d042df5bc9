"""SAT checkpoints, converted once into the cache and then used.

Below `converted/` in the cache's folder each conversion has a folder of its own:

    NAME-KEY/weights/                   the diffusers folder
    NAME-KEY/lora/alpha-A.safetensors   the checkpoint's LoRA, if it has one
    NAME-KEY/source.json                what it was made of; comes last: all else is whole

KEY tells apart what was made of other files or in another way (`sampling.sat_source`). Nothing is
evicted: whoever needs the room removes a folder.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from predictors.lora.source import LoraPlaces
from predictors.weights_source import INSTALLED
from sampling.sat_source import SatSource, complete_source, conversion_name
from weights.atomic import replacing, sync_folder
from weights.caching.cache import FOLDER_VARIABLE, Cache, cache_from_environment
from weights.disk_space import check_space
from weights.errors import OperationError, UserError
from weights.staging import sync_files

if TYPE_CHECKING:
    from conversion.plan import ConversionPlan

_log = logging.getLogger(__name__)

_RECORD = "source.json"
# SAT's LoraMixin has it unless its yaml says otherwise, and no file records it.
_SATS_ALPHA = 1.0

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SatWeights:
    """A converted checkpoint: the weights folder, the file of its LoRA, what one should know."""

    folder: Path
    lora: Path | None
    notes: tuple[str, ...]

    def lora_places(self, others: LoraPlaces) -> LoraPlaces:
        """`others`, and the folder of the LoRA, so that requests may name it."""
        if self.lora is None:
            return others
        return replace(others, folders=(*others.folders, self.lora.parent))


def sat_weights_folder(
    source: SatSource,
    cache: Cache | None = None,
    *,
    progress: Progress = lambda label, total: nullcontext(lambda count: None),
) -> SatWeights:
    """Convert a SAT checkpoint into the cache, unless it was before.

    Of processes that do this at once one converts. An interrupted conversion is taken up again.

    Args:
        cache: the one that COGVIDEOX_CACHE names by default.
        progress: called with a label and the bytes to write; what the context gives is called with
            the bytes just written.

    Raises:
        UserError: a part is missing, or the checkpoint is none, or not as `source` says.
        OperationError: there is not enough space, or the cache can't be written.
    """
    source = complete_source(source)
    root = (cache or cache_from_environment(INSTALLED)).root / "converted"
    entry = root / conversion_name(source)
    try:
        weights = _ready(entry, source)
        if weights is None:
            root.mkdir(parents=True, exist_ok=True)
            with _alone(root / f".{entry.name}.lock", source.checkpoint):
                weights = _ready(entry, source) or _make(entry, source, progress)
    except OSError as error:
        raise OperationError(
            f"{source.checkpoint} can't be converted into {root} ({error.strerror or error}).",
            "A folder is expected that can be read and written.",
            f"Correct that, or set {FOLDER_VARIABLE} to another folder.",
        ) from error
    return weights


@contextmanager
def _alone(file: Path, checkpoint: Path) -> Iterator[None]:
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.warning("Another process converts %s; waiting for it.", checkpoint)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _ready(entry: Path, source: SatSource) -> SatWeights | None:
    """What was converted before; None if it is not all there.

    Raises:
        UserError: the LoRA is not the one that `source` speaks of.
    """
    record = _read_record(entry)
    if record is None:
        return None
    rank, notes = record["lora_rank"], tuple(record["notes"])
    _check_rank(source, rank)
    if rank is None:
        return SatWeights(folder=entry / "weights", lora=None, notes=notes)
    alpha = _alpha(source)
    lora = _lora_file(entry, alpha)
    about = f"The checkpoint has a LoRA of rank {rank}; it acts with alpha {alpha:g} / {rank}."
    if not lora.is_file():
        return None
    return SatWeights(folder=entry / "weights", lora=lora, notes=(*notes, about))


def _read_record(entry: Path) -> dict[str, Any] | None:
    """What vouches for the weights folder; None if it isn't whole."""
    try:
        record: dict[str, Any] = json.loads((entry / _RECORD).read_bytes())
    except FileNotFoundError:
        return None
    return record if (entry / "weights" / "model_index.json").is_file() else None


def _alpha(source: SatSource) -> float:
    return _SATS_ALPHA if source.lora_alpha is None else source.lora_alpha


def _lora_file(entry: Path, alpha: float) -> Path:
    return entry / "lora" / f"alpha-{alpha!r}.safetensors"


def _check_rank(source: SatSource, found: int | None) -> None:
    if source.lora_rank not in (None, found):
        has = f"one of rank {found}" if found else "none"
        raise UserError(
            f"{source.config} speaks of a LoRA of rank {source.lora_rank}; {source.checkpoint} has "
            f"{has}.",
            "Both are expected to be of one training.",
            "Give the yaml the checkpoint was trained with.",
        )


def _make(entry: Path, source: SatSource, progress: Progress) -> SatWeights:
    """Convert what is missing; the caller is alone at it."""
    plan = _plan(source)
    rank = _write_lora(entry, source, plan)
    if _read_record(entry) is None:
        _write_weights(entry, plan, progress)
    sync_files(entry)
    record = {
        "checkpoint": str(source.checkpoint),
        "variant": plan.detection.variant.name,
        "lora_rank": rank,
        "notes": plan.notes,
    }
    with replacing(entry / _RECORD) as file:
        file.write(json.dumps(record, indent=2).encode())
    sync_folder(entry.parent)
    done = _ready(entry, source)
    assert done is not None
    return done


def _plan(source: SatSource) -> "ConversionPlan":
    from conversion.plan import DTYPES, ConversionOptions, plan_conversion
    from conversion.safetensors_writer import Cast

    options = ConversionOptions(
        config=source.config,
        vae=source.vae,
        text_encoder=str(source.text_encoder),
        cast=Cast(DTYPES[source.dtype] if source.dtype else None),
        lora="leave out",
    )
    plan = plan_conversion(source.checkpoint, options)
    if plan.models[0].file.lora_layers:
        return plan
    # So that conversion.json is that of `cogvideox convert`.
    return replace(plan, options=replace(options, lora="refuse"))


def _write_weights(entry: Path, plan: "ConversionPlan", progress: Progress) -> None:
    from conversion.convert import convert

    folder = entry / "weights"
    # Without a record nobody knows whether a folder reached the disk before the power went.
    if folder.exists():
        shutil.rmtree(folder)
    with progress("Converting", plan.total_bytes) as advance:
        convert(plan, folder, resume=True, advance=advance)


def _write_lora(entry: Path, source: SatSource, plan: "ConversionPlan") -> int | None:
    """Write the LoRA of the checkpoint; returns its rank, None if it has no LoRA."""
    from conversion.convert_lora import convert_lora, plan_lora

    if not plan.models[0].file.lora_layers:
        _check_rank(source, None)
        return None
    alpha = _alpha(source)
    lora = plan_lora(source.checkpoint, config=source.config, alpha=alpha, cast=plan.options.cast)
    _check_rank(source, lora.lora.rank)
    file = _lora_file(entry, alpha)
    file.parent.mkdir(parents=True, exist_ok=True)
    check_space(file.parent, lora.shard.data_size)
    convert_lora(lora, file)
    return lora.lora.rank
