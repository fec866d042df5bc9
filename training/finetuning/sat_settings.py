"""SAT's fine-tuning files (`sft.yaml`, and the model's yaml beside it) as settings of ours.

What the files don't say keeps our defaults, but for the course of the learning rate: unless told
otherwise SAT lets it fall in a line after a warm-up of 1 % (SwissArmyTransformer,
`sat/arguments.py`), and so does a training that follows its files. Of SAT's schedules
(`sat/training/learning_rates.py`)

- linear is diffusers' `linear`, which ends at 0 where SAT's ends at the warm-up's share of the
  whole: they are never further apart than that;
- cosine is `sgm-warmup-cosine`, which is the same from the warm-up on.

Both are one step late, since SAT counts from 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conversion.number_ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Range
from conversion.sat_unmapped import Unmapped, unmapped_keys
from conversion.sat_yaml import Entry, Reading
from training.finetuning.sat_reasons import REASONS
from training.finetuning.settings import FinetuneSettings
from training.setting_ranges import SEED
from weights.errors import UserError
from weights.variants import Variant

_Reader = Callable[[Entry], Any]

_SAT_DECAY_STYLE, _SAT_WARMUP, _SAT_DECAY_RATIO = "linear", 0.01, 0.1
_DATASET = "data_video.SFTDataset"
_ADAPTER = "sat.model.finetune.lora2.LoraMixin"
_NETWORK = "model.network_config.params"
_LORA = f"{_NETWORK}.modules.lora_config"
_LISTED = 10
_EMBEDDERS = "model.conditioner_config.params.emb_models"


@dataclass(frozen=True, slots=True, kw_only=True)
class SatSettings:
    """What a SAT configuration says."""

    files: tuple[Path, ...]
    settings: Mapping[str, Any]
    """Fields of `FinetuneSettings` and their values."""
    data: Path | None
    """The folder of `train_data`, if it is one: relative to where SAT was to be started."""
    size: tuple[int, int] | None
    """Width and height of the clips."""
    frames: int | None
    fps: int | None
    unmapped: tuple[Unmapped, ...]
    """Every key of the files that has no part in the above."""


def _whole(within: Range) -> _Reader:
    return lambda entry: entry.whole_number(within)


def _number(within: Range) -> _Reader:
    return lambda entry: entry.number(within)


def _betas(entry: Entry) -> tuple[float, ...]:
    betas = tuple(item.number(SHARE) for item in entry.items())
    if len(betas) != 2 or 1 in betas:
        raise entry.refused("Two numbers of at least 0 and below 1 are expected.")
    return betas


# Fields of FinetuneSettings: how they are read, and the keys that say them; the first counts.
_FIELDS: dict[str, tuple[_Reader, tuple[str, ...]]] = {
    "steps": (_whole(COUNT), ("args.train_iters",)),
    "save_every": (_whole(COUNT), ("args.save_interval",)),
    "validate_every": (_whole(COUNT), ("args.eval_interval",)),
    "seed": (_whole(SEED), ("args.seed",)),
    "batch": (_whole(COUNT), ("deepspeed.train_micro_batch_size_per_gpu", "args.batch_size")),
    "accumulate": (
        _whole(COUNT),
        ("deepspeed.gradient_accumulation_steps", "args.gradient_accumulation_steps"),
    ),
    "learning_rate": (_number(POSITIVE), ("deepspeed.optimizer.params.lr", "args.lr")),
    "weight_decay": (
        _number(NOT_NEGATIVE),
        ("deepspeed.optimizer.params.weight_decay", "args.weight_decay"),
    ),
    "betas": (_betas, ("deepspeed.optimizer.params.betas",)),
    "clip_norm": (_number(POSITIVE), ("deepspeed.gradient_clipping",)),
    "checkpointing": (
        Entry.flag,
        (f"{_NETWORK}.transformer_args.checkpoint_activations", "args.checkpoint_activations"),
    ),
    "rank": (_whole(COUNT), (f"{_LORA}.params.r",)),
    "alpha": (_number(POSITIVE), (f"{_LORA}.params.lora_alpha",)),
    "image_dropout": (_number(SHARE), ("model.noised_image_dropout",)),
}


def read_sat_settings(files: Sequence[Path], steps: int | None = None) -> SatSettings:
    """Read SAT's files for a fine-tuning; where they differ the later ones count.

    Args:
        steps: those of the training, where they are not to be the files': what is a share of the
            steps there, as the warm-up is, is that share of these.

    Raises:
        UserError: a file can't be read, or a value is not what SAT takes.
    """
    reading = Reading(files)
    settings: dict[str, Any] = {}
    for field, (read, names) in _FIELDS.items():
        if entry := reading.take(*names):
            settings[field] = read(entry)
    settings |= _kind(reading) | _precision(reading) | _caption_dropout(reading)
    settings |= _schedule(reading, steps or settings.get("steps", FinetuneSettings().steps))
    size = reading.take("data.params.video_size")
    frames = reading.take("data.params.max_num_frames")
    fps = reading.take("data.params.fps")
    if (target := reading.peek("data.target")) and target.value == _DATASET:
        reading.take("data.target")
    return SatSettings(
        files=tuple(files),
        settings=settings,
        data=_data(reading),
        size=_size(size) if size else None,
        frames=frames.whole_number(COUNT) if frames else None,
        fps=fps.whole_number(COUNT) if fps else None,
        unmapped=unmapped_keys(reading, REASONS),
    )


def require_agreement(sat: SatSettings, variant: Variant) -> None:
    """Nothing, if the clips that the files ask for are such as `variant` makes.

    Raises:
        UserError: their size, their number of frames or their frame rate is not.
    """
    sizes = [[height, width] for width, height in variant.legal_sizes]
    height_first = [*reversed(sat.size)] if sat.size else None
    for key, asked, legal in (
        ("video_size", height_first, sizes),
        ("max_num_frames", sat.frames, list(variant.legal_frames)),
        ("fps", sat.fps, [variant.fps]),
    ):
        if asked is not None and asked not in legal:
            raise UserError(
                f"data.params.{key} is {asked} in {' and '.join(map(str, sat.files))}.",
                f"{variant.name} is made for {_listed(legal)}.",
                "Correct the file, or train on the base that it is for.",
            )


def _listed(legal: Sequence[object]) -> str:
    shown, more = ", ".join(map(str, legal[:_LISTED])), len(legal) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown


def _kind(reading: Reading) -> dict[str, Any]:
    """Whether a LoRA or all weights are trained, if the files have the model's part."""
    prefixes = reading.peek("model.not_trainable_prefixes")
    frozen = prefixes is not None and "all" in [item.value for item in prefixes.items()]
    if not (frozen or reading.has("model.network_config")):
        return {}
    lora = reading.has(_LORA)
    if prefixes and frozen:
        if not lora and reading.has("model.network_config"):
            raise prefixes.refused(f"With all weights frozen a LoRA is expected, in {_LORA}.")
        reading.take("model.not_trainable_prefixes")
    elif lora:
        raise UserError(
            f"The files have {_LORA}, and model.not_trainable_prefixes is not ['all'].",
            "SAT would train the LoRA and all weights at once, which is not done here.",
            "Freeze the weights with ['all'], or take the LoRA out.",
        )
    if (mixin := reading.peek(f"{_LORA}.target")) and mixin.value == _ADAPTER:
        reading.take(f"{_LORA}.target")
    return {"full": not frozen}


def _precision(reading: Reading) -> dict[str, Any]:
    names = ("bf16", "fp16")
    of_deepspeed = any(reading.peek(f"deepspeed.{name}.enabled") for name in names)
    place = "deepspeed.{}.enabled" if of_deepspeed else "args.{}"
    flags = {name: entry for name in names if (entry := reading.take(place.format(name)))}
    on = [name for name, entry in flags.items() if entry.flag()]
    if len(on) > 1:
        raise flags["fp16"].refused(f"False is expected where {flags['bf16'].name} is True.")
    return {"precision": on[0] if on else "fp32"} if flags else {}


def _caption_dropout(reading: Reading) -> dict[str, Any]:
    embedders = reading.peek(_EMBEDDERS)
    if embedders is None:
        return {}
    found: dict[str, Any] = {}
    rest = []
    for item in embedders.items():
        kept = item.value
        if isinstance(kept, dict) and kept.get("ucg_rate") is not None:
            rate = Entry((*item.key, "ucg_rate"), kept["ucg_rate"], item.file)
            found.setdefault("caption_dropout", rate.number(SHARE))
            kept = {name: value for name, value in kept.items() if name != "ucg_rate"}
        rest.append(kept)
    reading.entries[embedders.key] = replace(embedders, value=rest)
    return found


def _schedule(reading: Reading, steps: int) -> dict[str, Any]:
    if not reading.has("args"):
        return {}
    warmup = reading.take("args.warmup")
    share = warmup.number(SHARE) if warmup else _SAT_WARMUP
    style = reading.peek("args.lr_decay_style")
    match style.value if style else _SAT_DECAY_STYLE:
        case "linear":
            schedule: dict[str, Any] = {"lr_schedule": "linear"}
        case "cosine":
            ratio = reading.take("args.lr_decay_ratio")
            decay = reading.take("args.lr_decay_iters")
            steps = decay.whole_number(COUNT) if decay else steps
            options = {
                "lr_min": ratio.number(SHARE) if ratio else _SAT_DECAY_RATIO,
                "max_decay_steps": steps + round(share * steps),
            }
            schedule = {"lr_schedule": "sgm-warmup-cosine", "lr_options": options}
        case "constant" | "exponential":
            schedule = {"lr_schedule": "constant_with_warmup"}
        case _:
            assert style
            raise style.refused("One of linear, cosine, constant and exponential is expected.")
    if style and style.value != "exponential":
        reading.take("args.lr_decay_style")
    return {**schedule, "warmup_steps": round(share * steps)}


def _data(reading: Reading) -> Path | None:
    """The folder to train on; None if there are more, or none."""
    entry = reading.peek("args.train_data")
    if entry is None:
        return None
    folders = [entry] if isinstance(entry.value, str) else entry.items()
    names = [each.value for each in folders if isinstance(each.value, str)]
    if len(names) < len(folders):
        raise entry.refused("A list of folders is expected.")
    if len(names) != 1:
        return None
    reading.take("args.train_data")
    return Path(names[0])


def _size(entry: Entry) -> tuple[int, int]:
    sides = [item.whole_number(COUNT) for item in entry.items()]
    if len(sides) != 2:
        raise entry.refused("Two numbers are expected, height and width in pixels.")
    height, width = sides
    return width, height
