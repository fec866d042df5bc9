"""What a training leaves in its folder: the LoRA or the weights, and a model card."""

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from predictors.weights_source import ReadyWeights
from training.dataset.clip_rules import ClipRules
from training.finetuning.full_weights import save_full_weights
from training.finetuning.lora import adapter_state
from training.finetuning.lora_file import save_lora, training_metadata
from training.finetuning.model_card import CardFacts, ValidationClip, model_card
from training.finetuning.out_folder import SAT_FOLDER, result_path
from training.finetuning.sat_lora import save_sat_lora
from training.finetuning.settings import FinetuneSettings

_TRIGGERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFacts:
    """What a result says of its training."""

    base: ReadyWeights
    base_name: str
    rules: ClipRules
    settings: FinetuneSettings
    prompts: Sequence[str]
    loss: float
    seconds: float
    device: torch.device
    validation: Sequence[tuple[str, Path]]


def save_result(
    parameters: Mapping[str, torch.Tensor], out: Path, facts: TrainingFacts, *, to_sat: bool
) -> Path:
    """Write the result of a training and its README.md to `out`; returns the result's path.

    Raises:
        UserError: there is something in the way already.
        OperationError: a value is not finite, or the disk is too full.
    """
    settings, base = facts.settings, facts.base
    path = result_path(out, full=settings.full)
    if settings.full:
        save_full_weights(parameters, base, path, settings=dataclasses.asdict(settings))
    else:
        state = adapter_state(parameters)
        save_lora(
            state,
            path,
            variant=base.variant.name,
            rank=settings.rank,
            alpha=settings.alpha,
            targets=settings.targets,
            extra=training_metadata(dataclasses.asdict(settings), facts.prompts[:_TRIGGERS]),
        )
        if to_sat:
            save_sat_lora(
                state,
                out / SAT_FOLDER,
                base=base.folder,
                alpha=settings.alpha,
                step=settings.steps,
            )
    (out / "README.md").write_text(model_card(_card(path, out, facts)), encoding="utf-8")
    return path


def _card(path: Path, out: Path, facts: TrainingFacts) -> CardFacts:
    rules = facts.rules
    return CardFacts(
        title=out.resolve().name,
        result=path.name,
        full=facts.settings.full,
        variant=facts.base.variant,
        base=facts.base_name,
        settings=dataclasses.asdict(facts.settings),
        clips=len(facts.prompts),
        frames=rules.frames,
        width=rules.width,
        height=rules.height,
        fps=rules.fps,
        trigger_prompts=tuple(facts.prompts[:_TRIGGERS]),
        final_loss=facts.loss,
        minutes=facts.seconds / 60,
        machine=_machine(facts.device),
        validation=tuple(
            ValidationClip(prompt=prompt, path=PurePosixPath(file.relative_to(out)))
            for prompt, file in facts.validation
        ),
    )


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
