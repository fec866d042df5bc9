"""Clips that a model makes while it is trained, to see what it has learned so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from predictors.video import write_video
from training.dataset.clip_rules import ClipRules
from weights.variants import PIPELINES, Variant

if TYPE_CHECKING:
    from PIL.Image import Image

_SEED = 0
_STEPS = 50
# The API's default.
_GUIDANCE = 6.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ValidationPrompt:
    """What a validation clip is to show. `embedding` is `[T, D]`; `image` is image-to-video's."""

    text: str
    embedding: torch.Tensor
    image: "Image | None"


def validation_pipeline(base: Path, variant: Variant, transformer: Any, vae: Any) -> Any:
    """The pipeline of `variant` around a transformer in training; its prompts are embedded already.

    Args:
        base: the weights folder, for the scheduler that it names.
    """
    import diffusers

    scheduler = diffusers.DiffusionPipeline.load_config(base)["scheduler"][1]
    pipe = getattr(diffusers, PIPELINES[variant.task])(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=getattr(diffusers, scheduler).from_pretrained(base, subfolder="scheduler"),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample_validation_clip(
    pipe: Any, prompt: ValidationPrompt, empty_prompt: torch.Tensor, rules: ClipRules, path: Path
) -> None:
    """Write the clip of a prompt.

    The noise is the same each time, and the settings are the API's defaults, so that the clips of
    two steps differ by what was learned in between.

    Args:
        pipe: from `validation_pipeline`.
        empty_prompt: `[T, D]`, the embedding of "".
    """
    dtype, device = pipe.transformer.dtype, pipe.transformer.device
    # Only for this: the same VAE encodes the images that image-to-video is trained on.
    pipe.vae.enable_tiling()
    frames = pipe(
        **({"image": prompt.image} if prompt.image else {}),
        prompt_embeds=prompt.embedding[None].to(device, dtype),
        negative_prompt_embeds=empty_prompt[None].to(device, dtype),
        width=rules.width,
        height=rules.height,
        num_frames=rules.frames,
        num_inference_steps=_STEPS,
        guidance_scale=_GUIDANCE,
        use_dynamic_cfg=type(pipe.scheduler).__name__ == "CogVideoXDPMScheduler",
        generator=torch.Generator().manual_seed(_SEED),
        output_type="np",
    ).frames[0]
    pipe.vae.disable_tiling()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(np.rint(frames * 255).astype(np.uint8), path, fps=rules.fps)


def shares_of(prompts: Sequence[ValidationPrompt], process: int, processes: int) -> range:
    """The numbers of the prompts that a process samples, where each can do so on its own."""
    return range(process, len(prompts), processes)
