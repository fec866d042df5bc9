"""What a caller asked for, checked against the rules of the variant that will serve it."""

import secrets
from dataclasses import dataclass

from weights.errors import UserError
from weights.variants import Variant

MAX_STEPS = 500
MIN_GUIDANCE, MAX_GUIDANCE = 1.0, 20.0
# `cog run -i seed=` reads a 32-bit integer.
MAX_SEED = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request the variant can serve, with every blank filled in."""

    prompt: str
    num_inference_steps: int
    guidance_scale: float
    num_frames: int
    seed: int


def validate(
    variant: Variant,
    *,
    prompt: str,
    num_inference_steps: float,
    guidance_scale: float,
    num_frames: float | None,
    seed: float | None,
) -> Request:
    """Check the inputs of one request; `num_frames` and `seed` may be blank (None).

    Whole numbers may come as floats: Cog hands a JSON 2.0 through as it is.

    Raises:
        UserError: an input is not what `variant` can do.
    """
    return Request(
        prompt=_prompt(prompt),
        num_inference_steps=_whole("num_inference_steps", num_inference_steps, 1, MAX_STEPS),
        guidance_scale=_guidance(guidance_scale),
        num_frames=variant.default_frames if num_frames is None else _frames(variant, num_frames),
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else _whole("seed", seed, 0, MAX_SEED),
    )


def _prompt(prompt: str) -> str:
    if not prompt.strip():
        raise UserError(
            "prompt is blank.",
            "It must describe the video in English.",
            "Write what should be seen, in one to five sentences.",
        )
    return prompt


def _guidance(value: float) -> float:
    if not MIN_GUIDANCE <= value <= MAX_GUIDANCE:
        raise UserError(
            f"guidance_scale is {value}.",
            f"It must lie between {MIN_GUIDANCE:g} and {MAX_GUIDANCE:g}.",
            "Use a number in this range; 6 is the default.",
        )
    return float(value)


def _whole(name: str, value: float, least: int, most: int | None) -> int:
    in_range = value >= least and (most is None or value <= most)
    if not in_range or value != int(value):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UserError(
            f"{name} is {value}.",
            f"It must be a whole number {wanted}.",
            "Use such a number, or leave it out for the default.",
        )
    return int(value)


def _frames(variant: Variant, value: float) -> int:
    frames = _whole("num_frames", value, 1, None)
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
