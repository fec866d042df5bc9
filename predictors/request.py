"""What a caller asked for, checked against the rules of the variant that will serve it."""

import secrets
from dataclasses import dataclass
from typing import Any, Literal, get_args

from predictors.frame_size import frame_size
from predictors.input_image import ImageFit
from predictors.number_inputs import number, whole_number
from predictors.speed import Speed
from predictors.video import OutputFormat
from weights.errors import UserError
from weights.variants import Variant

Scheduler = Literal["dpm", "ddim"]

MAX_STEPS = 500
MIN_GUIDANCE, MAX_GUIDANCE = 1.0, 20.0
# `cog run -i seed=` reads a 32-bit integer.
MAX_SEED = 2**31 - 1
MAX_FPS = 60
# A GIF's delays are whole hundredths of a second, and browsers play one of 1 as one of 10.
MAX_GIF_FPS = 50
MAX_LORA_SCALE = 4.0
_SCHEDULERS: dict[str, Scheduler] = {
    "CogVideoXDPMScheduler": "dpm",
    "CogVideoXDDIMScheduler": "ddim",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request the variant can serve, with every blank filled in. Sizes are in pixels."""

    prompt: str
    negative_prompt: str
    num_frames: int
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    dynamic_guidance: bool
    scheduler: Scheduler
    seed: int
    fps: int
    lora: str
    lora_scale: float
    speed: Speed
    output_format: OutputFormat
    output_quality: int
    image_fit: ImageFit


def validate(
    variant: Variant,
    *,
    prompt: str,
    negative_prompt: str = "",
    num_frames: float | None = None,
    width: float = 0,
    height: float = 0,
    num_inference_steps: float = 50,
    guidance_scale: float = 6,
    dynamic_guidance: bool | None = None,
    scheduler: str = "auto",
    seed: float | None = None,
    fps: float = 0,
    lora: str = "",
    lora_scale: float = 1,
    speed: str = "quality",
    output_format: str = "mp4",
    output_quality: float = 80,
    image_fit: str = "crop",
    image_size: tuple[int, int] | None = None,
) -> Request:
    """Check the inputs of one request and fill in what was left blank.

    Whole numbers may come as floats: Cog hands a JSON 2.0 through as it is.

    Args:
        image_size: (width, height) of the image to begin with, in pixels; None for text-to-video.

    Raises:
        UserError: an input is not what `variant` can do.
    """
    chosen_scheduler = _scheduler(variant, scheduler)
    chosen_format = _choice("output_format", output_format, OutputFormat)
    frame_width, frame_height = frame_size(variant, width, height, image_size)
    return Request(
        prompt=_prompt(prompt),
        negative_prompt=negative_prompt,
        num_frames=variant.default_frames if num_frames is None else _frames(variant, num_frames),
        width=frame_width,
        height=frame_height,
        num_inference_steps=whole_number("num_inference_steps", num_inference_steps, 1, MAX_STEPS),
        guidance_scale=number("guidance_scale", guidance_scale, MIN_GUIDANCE, MAX_GUIDANCE),
        # Upstream varies the guidance from step to step (see denoising.py), with this scheduler
        # only.
        dynamic_guidance=chosen_scheduler == "dpm"
        if dynamic_guidance is None
        else dynamic_guidance,
        scheduler=chosen_scheduler,
        seed=secrets.randbelow(MAX_SEED + 1)
        if seed is None
        else whole_number("seed", seed, 0, MAX_SEED),
        fps=whole_number("fps", fps, 0, MAX_GIF_FPS if chosen_format == "gif" else MAX_FPS)
        or variant.fps,
        lora=lora.strip(),
        lora_scale=number("lora_scale", lora_scale, -MAX_LORA_SCALE, MAX_LORA_SCALE),
        speed=_choice("speed", speed, Speed),
        output_format=chosen_format,
        output_quality=whole_number("output_quality", output_quality, 1, 100),
        image_fit=_choice("image_fit", image_fit, ImageFit),
    )


def _prompt(prompt: str) -> str:
    if not prompt.strip():
        raise UserError(
            "prompt is blank.",
            "It must describe the video in English.",
            "Write what should be seen, in one to five sentences.",
        )
    return prompt


def _scheduler(variant: Variant, name: str) -> Scheduler:
    if name == "auto":
        return _SCHEDULERS[variant.scheduler]
    return _choice("scheduler", name, Scheduler, ("auto",))  # type: ignore[no-any-return]


def _choice(name: str, value: str, kind: Any, more: tuple[str, ...] = ()) -> Any:
    choices = get_args(kind)
    if value not in choices:
        raise UserError(
            f"{name} is {value[:40]!r}.",
            f"It must be one of {', '.join((*more, *choices))}.",
            "Use one of these, or leave it out for the default.",
        )
    return value


def _frames(variant: Variant, value: float) -> int:
    frames = whole_number("num_frames", value, 1, None)
    legal = variant.legal_frames
    if frames in legal:
        return frames
    below = [count for count in legal if count < frames][-1:]
    above = [count for count in legal if count > frames][:1]
    nearest = " or ".join(str(count) for count in below + above)
    if len(legal) == 1:
        allowed = f"{variant.name} makes {legal[0]} frames."
    else:
        allowed = (
            f"{variant.name} makes {legal[0]}, {legal[1]}, … {legal[-1]} frames, "
            f"in steps of {variant.frame_step}."
        )
    raise UserError(
        f"num_frames is {frames}.", allowed, f"Use {nearest}, or leave it blank for the default."
    )
