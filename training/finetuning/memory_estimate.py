"""Whether a fine-tuning fits into a GPU's memory, and what would make it fit.

The figures are estimates, see training/finetuning/training_memory.py; no GPU has confirmed them
yet. What CogKit publishes of its LoRA trainings, with checkpointing, ours for the same clips beside
it: cogvideox-2b, 49 frames of 720×480, 12 GB (11.6, which T5 takes; the steps themselves 8.6);
cogvideox-5b 24 GB (20.7); cogvideox1.5-5b, 81 frames of 1360×768, 32 GB (32.9).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

from training.finetuning.settings import FinetuneSettings
from training.finetuning.training_memory import TrainingMemory, TrainingPlan, training_memory
from weights.errors import UserError
from weights.variants import VARIANTS, Variant

_Change = tuple[str, Callable[[TrainingPlan], TrainingPlan]]

_RANKS = (128, 64, 32, 16, 8, 4)
_GPUS = (2, 4, 8, 16, 32, 64)
_ENOUGH, _SHOWN = 2, 4

_GPUS_IN_TABLE = 8
_IN_NO_TABLE = ("nano", "nano-i2v")
_CAPTION = (
    "GB of 10⁹ bytes for each GPU at the peak, with the default settings. Computed, not measured: "
    "see training/finetuning/training_memory.py."
)


def estimate(
    variant: Variant,
    settings: FinetuneSettings,
    *,
    frames: int,
    width: int,
    height: int,
    processes: int = 1,
) -> TrainingMemory:
    """What each GPU needs to train on clips of `frames` frames of `width`×`height` pixels.

    Args:
        processes: GPUs; with --full these share weights, gradients and the optimizer's state.
    """
    return training_memory(
        TrainingPlan(
            variant=variant,
            settings=settings,
            frames=frames,
            width=width,
            height=height,
            processes=processes,
        )
    )


def require_fits(needed: TrainingMemory, free_bytes: int) -> None:
    """Nothing, if each GPU has `free_bytes` for what is needed.

    Raises:
        UserError: it has not; says which options would make it fit, with what they would need.
    """
    if needed.peak <= free_bytes:
        return
    ways = ways_to_fit(needed.plan, free_bytes)
    remedy = (
        f"Any of these makes it fit: {'; '.join(f'{how} ({_gb(peak)} GB)' for how, peak in ways)}."
        if ways
        else f"{_hopeless(needed.plan)} Use a larger GPU or a smaller variant."
    )
    raise UserError(
        f"This training needs about {_gb(needed.peak)} GB of GPU memory ({_most(needed)}).",
        f"{_gb(free_bytes)} GB are free.",
        f"{remedy} To begin all the same: --no-memory-check.",
    )


def ways_to_fit(plan: TrainingPlan, free_bytes: int) -> list[tuple[str, int]]:
    """Changes of `plan` that make it fit: their names and the peak they lead to.

    Those of the fewest options come first, and no option is among them that is not needed. Of one
    that has degrees the mildest is taken that is enough.
    """
    changes = [degrees for degrees in _changes(plan) if degrees]
    if plan.settings.full:
        changes.append([_LORA])
    found: dict[tuple[int, ...], tuple[str, int]] = {}
    for count in range(1, len(changes) + 1):
        for chosen in combinations(range(len(changes)), count):
            if any(set(smaller) <= set(chosen) for smaller in found):
                continue
            if way := _mildest(plan, [changes[n] for n in chosen], free_bytes):
                found[chosen] = way
        if len(found) >= _ENOUGH:
            break
    return list(found.values())[:_SHOWN]


def _mildest(
    plan: TrainingPlan, changes: Sequence[Sequence[_Change]], free_bytes: int
) -> tuple[str, int] | None:
    for degrees in product(*changes):
        changed = plan
        for _, change in degrees:
            changed = change(changed)
        peak = training_memory(changed).peak
        if peak <= free_bytes:
            return " and ".join(name for name, _ in degrees), peak
    return None


def _changes(plan: TrainingPlan) -> Iterator[list[_Change]]:
    """What can be changed to need less, one list for each, from the mildest degree on."""
    settings = plan.settings
    yield [_set("--checkpointing", checkpointing=True)] if not settings.checkpointing else []
    if settings.batch > 1:
        accumulate = settings.accumulate * settings.batch
        yield [_set(f"--batch 1 --accumulate {accumulate}", batch=1, accumulate=accumulate)]
    if plan.dtype == "float32" and plan.variant.dtype != "float32":
        yield [_set("--precision auto", precision="auto")]
    if not settings.eight_bit_optimizer:
        yield [_set("--eight-bit-optimizer", eight_bit_optimizer=True)]
    if settings.validate_every:
        yield [_set("--validate-every 0", validate_every=0)]
    if not settings.vae_tiling:
        yield [_set("--vae-tiling", vae_tiling=True)]
    if settings.ema_decay:
        yield [_set("--ema-decay 0", ema_decay=0.0)]
    fewer = [frames for frames in plan.variant.legal_frames if frames < plan.frames]
    yield [_plan(f"--frames {frames}", frames=frames) for frames in reversed(fewer)]
    if settings.full:
        gpus = [count for count in _GPUS if count > plan.processes]
        yield [_plan(f"accelerate launch with FSDP on {n} GPUs", processes=n) for n in gpus]
    else:
        yield [_set(f"--rank {rank}", rank=rank) for rank in _RANKS if rank < settings.rank]


def _plan(name: str, **changed: int) -> _Change:
    return name, lambda plan: replace(plan, **changed)


def _set(name: str, **changed: Any) -> _Change:
    return name, lambda plan: replace(plan, settings=replace(plan.settings, **changed))


_LORA = _set("a LoRA instead of --full", full=False)


def memory_table() -> str:
    """The needs of the released variants as a Markdown table, for their default clips."""
    columns = {
        "LoRA": (FinetuneSettings(), 1),
        "`--checkpointing`": (FinetuneSettings(checkpointing=True), 1),
        "`--full`": (FinetuneSettings(full=True), 1),
        "`--full --checkpointing`": (FinetuneSettings(full=True, checkpointing=True), 1),
        f"the same, FSDP on {_GPUS_IN_TABLE} GPUs": (
            FinetuneSettings(full=True, checkpointing=True),
            _GPUS_IN_TABLE,
        ),
    }
    lines = [
        f"| variant | clips | {' | '.join(columns)} |",
        "|---|---|" + "---|" * len(columns),
    ]
    for variant in VARIANTS.values():
        if variant.name in _IN_NO_TABLE:
            continue
        peaks = [
            estimate(
                variant,
                settings,
                frames=variant.default_frames,
                width=variant.width,
                height=variant.height,
                processes=processes,
            ).peak
            for settings, processes in columns.values()
        ]
        clips = f"{variant.default_frames} × {variant.width}×{variant.height}"
        lines.append(f"| {variant.name} | {clips} | {' | '.join(map(_gb, peaks))} |")
    return "\n".join([*lines, "", _CAPTION])


def _hopeless(plan: TrainingPlan) -> str:
    least = min(map(_least, [plan, _LORA[1](plan)]), key=lambda needed: needed.peak)
    return f"With every option that saves memory it is {_gb(least.peak)} GB still ({_most(least)})."


def _least(plan: TrainingPlan) -> TrainingMemory:
    """The need after all changes, each in its strongest degree."""
    for degrees in list(_changes(plan)):
        for _, change in degrees[-1:]:
            plan = change(plan)
    return training_memory(plan)


def _most(needed: TrainingMemory) -> str:
    """The stage that takes the most."""
    stages = {
        "while T5 encodes prompts": needed.encode_prompts,
        "while the VAE encodes clips": needed.encode_clips,
        "in a training step": needed.step,
        "while a validation clip is made": needed.validation,
    }
    return max(stages, key=lambda name: stages[name])


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f}"
