"""A fine-tuning from beginning to end: clips in, a LoRA or a weights folder out."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from predictors.pipeline import prepare_libraries
from predictors.weights_source import ReadyWeights
from training.dataset.clip import Clip
from training.dataset.clip_rules import ClipRules
from training.finetuning.content_digests import content_digest, digest_of, folders_digest
from training.finetuning.encoded_clips import EncodedClips, encode_clips
from training.finetuning.encoders import load_vae
from training.finetuning.lora import block_targets
from training.finetuning.objective import Objective
from training.finetuning.optimizer import check_optimizer
from training.finetuning.out_folder import (
    CACHE,
    CONTACT_SHEET,
    LOGS,
    result_path,
    validation_path,
)
from training.finetuning.precision import dtype_of, mixed_precision, precision_for
from training.finetuning.results import TrainingFacts, save_result
from training.finetuning.sat_lora import check_sat_targets
from training.finetuning.settings import FinetuneSettings
from training.finetuning.trackers import NO_TRACKER, check_tracker
from training.finetuning.trainable import load_trainable
from training.finetuning.trainer import Trainer
from training.finetuning.validation import (
    ValidationPrompt,
    sample_validation_clip,
    shares_of,
    validation_pipeline,
)
from training.lr_schedules import schedule_named
from training.run_folder import RunFolder
from weights.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

# What a folder may hold before a training begins there.
_BESIDE = (CACHE, CONTACT_SHEET)
# Processes wait for each other while clips are encoded and sampled.
_PATIENCE = timedelta(days=1)
# So many captions are sampled where validation prompts are wanted and none are given.
_CAPTIONS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What to train on what, how, and where to."""

    base: ReadyWeights
    base_name: str
    """What the model card calls the base."""
    clips: Sequence[Clip]
    rules: ClipRules
    settings: FinetuneSettings
    out: Path
    cache: Path | None = None
    """Where encoded clips and prompts are kept; None: in `out`."""
    tracker: str = NO_TRACKER
    """Of losses, as accelerate names it."""
    to_sat: bool = False
    """Write a LoRA in SAT's layout, too."""
    check_memory: bool = True
    """Refuse what is estimated not to fit into the GPU's memory."""


def finetune(training: Training) -> Path:
    """Train, or go on with the training in `out`; returns the LoRA's file or the weights folder.

    Beside the result `out` gets README.md, validation clips, log.jsonl with the loss of every step,
    the tracker's logs, and what is needed to go on. Under `accelerate launch` all processes call
    this; the result is written by the first.

    Raises:
        UserError: `out` holds another training, or what is asked for can't be done.
        OperationError: the disk is too full, or values are not finite.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the same call goes on from there.
    """
    started = time.monotonic()
    settings, out = training.settings, training.out
    prepare_libraries()
    _check_settings(training)
    accelerator, dtype = _accelerator(training)
    check_optimizer(settings, accelerator.device)
    if training.check_memory and accelerator.device.type == "cuda":
        _require_memory(training, accelerator)
    with accelerator.main_process_first():
        run = RunFolder(out, _identity(training, accelerator.num_processes), _BESIDE)
    _refuse_finished(result_path(out, full=settings.full))
    if training.tracker != NO_TRACKER:
        accelerator.init_trackers(LOGS)
    prompts = _validation_prompts(training)
    encoded = _encoded(training, prompts, accelerator)
    needs_vae = training.rules.first_frames or prompts
    vae = load_vae(training.base, accelerator.device) if needs_vae else None
    transformer = load_trainable(training.base.folder / "transformer", settings, dtype)
    objective = Objective(
        variant=training.base.variant,
        config=transformer.config,
        settings=settings,
        empty_prompt=encoded.empty_prompt,
        device=accelerator.device,
        dtype=dtype,
        vae=vae,
    )
    trainer = Trainer(accelerator, transformer, objective, encoded, settings)
    validate = _validator(training, prompts, encoded, vae, accelerator) if prompts else None
    trained = trainer.train(run, validate)
    if accelerator.is_main_process:
        facts = TrainingFacts(
            base=training.base,
            base_name=training.base_name,
            rules=training.rules,
            settings=settings,
            prompts=[clip.prompt for clip in training.clips],
            loss=trained.loss,
            seconds=time.monotonic() - started,
            device=accelerator.device,
            validation=[
                (prompt, validation_path(out, settings.steps, number))
                for number, prompt in enumerate(prompts)
            ],
        )
        save_result(trained.parameters, out, facts, to_sat=training.to_sat)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result_path(out, full=settings.full)


def _check_settings(training: Training) -> None:
    """Refuse, before anything expensive, what would be refused when its turn comes."""
    settings = training.settings
    block_targets(settings.targets)
    if training.to_sat and settings.full:
        raise UserError(
            "--to sat is asked for with --full.",
            "Only a LoRA is written in SAT's layout by itself.",
            "Leave one of the two out; `cogvideox convert` makes SAT's layout of a weights folder.",
        )
    if training.to_sat:
        check_sat_targets(settings.targets)
    schedule_named(
        settings.lr_schedule,
        steps=settings.steps,
        warmup=settings.warmup_steps,
        options=settings.lr_options,
    )
    check_tracker(training.tracker)


def _accelerator(training: Training) -> tuple[Any, torch.dtype]:
    """accelerate's view of this process and its neighbours, and what the model computes in."""
    from accelerate import Accelerator, PartialState
    from accelerate.utils import parse_flag_from_env

    settings = training.settings
    # What `accelerate launch --cpu` sets; Accelerator reads it, and comes second here.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    device = PartialState(cpu=on_cpu, timeout=_PATIENCE).device
    precision = precision_for(settings.precision, training.base.variant, device)
    accelerator = Accelerator(
        gradient_accumulation_steps=settings.accumulate,
        mixed_precision=mixed_precision(precision),
        log_with=None if training.tracker == NO_TRACKER else training.tracker,
        project_dir=training.out,
    )
    return accelerator, dtype_of(precision)


def _require_memory(training: Training, accelerator: Any) -> None:
    from training.finetuning.memory_estimate import estimate, require_fits

    rules = training.rules
    free, _ = torch.cuda.mem_get_info(accelerator.device)
    needed = estimate(
        training.base.variant,
        training.settings,
        frames=rules.frames,
        width=rules.width,
        height=rules.height,
        processes=accelerator.num_processes,
    )
    require_fits(needed, free)


def _identity(training: Training, processes: int) -> dict[str, Any]:
    """What must be the same for a training to go on, as JSON holds it."""
    base = training.base
    clips = [
        [content_digest(clip.path), clip.prompt, clip.image and content_digest(clip.image)]
        for clip in training.clips
    ]
    return {
        "base": {"variant": base.variant.name, "digest": folders_digest(base.folder)},
        "clips": digest_of(clips),
        "rules": dataclasses.asdict(training.rules),
        "settings": dataclasses.asdict(training.settings),
        "processes": processes,
    }


def _refuse_finished(result: Path) -> None:
    if result.exists():
        raise UserError(
            f"{result} is there: this training is finished.",
            "A new folder is expected, or a training to go on with.",
            "Choose another folder.",
        )


def _validation_prompts(training: Training) -> list[str]:
    settings = training.settings
    if not settings.validate_every:
        return []
    captions = list(dict.fromkeys(clip.prompt for clip in training.clips))
    return list(settings.validation_prompts) or captions[:_CAPTIONS]


def _encoded(training: Training, prompts: Sequence[str], accelerator: Any) -> EncodedClips:
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return encode_clips(
        training.base,
        training.clips,
        training.rules,
        training.cache or training.out / CACHE,
        device=accelerator.device,
        more_prompts=prompts,
        vae_tiling=training.settings.vae_tiling,
        process=(accelerator.local_process_index, local),
        barrier=accelerator.wait_for_everyone,
    )


def _validator(
    training: Training,
    texts: Sequence[str],
    encoded: EncodedClips,
    vae: Any,
    accelerator: Any,
) -> Callable[[Any, int], None]:
    """Samples the validation clips, the processes side by side."""
    prompts = [
        ValidationPrompt(text=text, embedding=encoded.prompt(text), image=_image(encoded, number))
        for number, text in enumerate(texts)
    ]

    def validate(model: Any, step: int) -> None:
        pipe = validation_pipeline(
            training.base.folder, training.base.variant, accelerator.unwrap_model(model), vae
        )
        alone = accelerator.distributed_type != "FSDP"
        own = (accelerator.process_index, accelerator.num_processes) if alone else (0, 1)
        for number in shares_of(prompts, *own):
            path = validation_path(training.out, step, number)
            with accelerator.autocast():
                sample_validation_clip(
                    pipe, prompts[number], encoded.empty_prompt, training.rules, path
                )
        accelerator.wait_for_everyone()

    return validate


def _image(encoded: EncodedClips, number: int) -> "Image | None":
    """The input image of clip `number`, or of the first where there are fewer clips."""
    from PIL.Image import fromarray

    image = encoded.sample(number % len(encoded)).image
    if image is None:
        return None
    pixels = ((image.movedim(0, -1) + 1) * 127.5).round().byte()
    return fromarray(pixels.numpy())
