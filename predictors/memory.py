"""Where the pipeline's parts lie while it runs, decided once at setup."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from predictors.memory_estimate import (
    PLACEMENTS,
    ComponentSizes,
    Placement,
    VideoSize,
    encoding_peak,
    estimated_peak,
    largest_video,
)
from weights.errors import UserError
from weights.variants import Dtype, Variant

Device = Literal["cuda", "cpu"]
MemoryChoice = Literal["auto"] | Placement
CHOICES: tuple[MemoryChoice, ...] = ("auto", *PLACEMENTS)
VARIABLE = "COGVIDEOX_MEMORY"

# What must be free per estimated byte: the allocator's fragmentation and cuDNN's workspaces are
# not in the estimate.
MARGIN = 1.1
# The same for decoding without tiles, which nobody is hurt by doing without: ample room only.
AMPLE = 1.5
# Of a card's memory, what is left when driver, error correction and CUDA have taken theirs.
_USABLE = 0.93

_NAMES: dict[Placement, str] = {
    "resident": "resident on the GPU",
    "model-offload": "each part on the GPU only while it works (model offload)",
    "group-offload": "the transformer's blocks copied to the GPU one by one (group offload)",
    "sequential": "layer by layer on the GPU (sequential offload)",
}
_ENCODING_NAMES = _NAMES | {
    "group-offload": "layer by layer on the GPU, the next one on its way (group offload)"
}
_FOR_ENCODING: tuple[Placement, ...] = ("resident", "group-offload", "sequential")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPolicy:
    """How to hold a pipeline in memory, the reason in words, and what may go wrong ("": nothing).

    `peak` is the estimate in bytes for the request it was planned for; None without a GPU.
    """

    placement: Placement
    device: Device
    vae_tiling: bool
    peak: int | None
    reason: str
    warning: str = ""


def memory_choice(environment: Mapping[str, str]) -> MemoryChoice:
    """What COGVIDEOX_MEMORY says; "auto" where it is not set.

    Raises:
        UserError: it says none of the choices.
    """
    value = environment.get(VARIABLE) or "auto"
    for choice in CHOICES:
        if value == choice:
            return choice
    raise UserError(
        f"{VARIABLE} is {value!r}.",
        f"It must be one of {', '.join(CHOICES)}.",
        "Leave it unset for auto, which takes the fastest that fits.",
    )


def compute_dtype(stored: Dtype, device: Device, *, int8: bool = False) -> Dtype:
    """The dtype to load weights in that are stored as `stored`.

    CPUs lack float16 kernels for some of the layers: there everything is float32. Products with
    int8 weights are summed up before they are scaled, which would overflow in float16.
    """
    if device == "cpu":
        return "float32"
    return "bfloat16" if int8 else stored


def usable_memory(card_gb: float) -> int:
    """Bytes that a card sold with `card_gb` GB (which are GiB) has free for us."""
    return int(card_gb * _USABLE * (1 << 30))


def memory_policy(
    variant: Variant,
    sizes: ComponentSizes,
    free: int,
    choice: MemoryChoice = "auto",
    video: VideoSize | None = None,
    batch: int = 1,
) -> MemoryPolicy:
    """The fastest way of holding `variant` in `free` bytes of GPU memory that fits, or `choice`.

    Args:
        video: the request to plan for; None for the largest that `variant` can do. Where nothing
            holds it, one of the default number of frames is planned for, with a warning.
        batch: how many such videos are denoised at once; they are decoded one by one.
    """
    passes = 2 * batch
    wanted = video or largest_video(variant)
    usual = replace(wanted, frames=min(wanted.frames, variant.default_frames))
    allowed = PLACEMENTS if choice == "auto" else (choice,)
    for planned in (wanted, usual):
        peaks = {
            p: estimated_peak(variant, sizes, p, planned, vae_tiling=True, passes=passes)
            for p in PLACEMENTS
        }
        fitting = [p for p in PLACEMENTS if peaks[p] * MARGIN <= free]
        possible = [p for p in allowed if p in fitting]
        if possible:
            break
    placement = (possible or allowed[-1:])[0]
    untiled = estimated_peak(variant, sizes, placement, planned, vae_tiling=False, passes=passes)
    vae_tiling = untiled * AMPLE > free
    peak = peaks[placement] if vae_tiling else untiled
    why = f", as {VARIABLE} says" if choice != "auto" else _why_not_faster(placement, peaks)
    return MemoryPolicy(
        placement=placement,
        device="cuda",
        vae_tiling=vae_tiling,
        peak=peak,
        reason=f"{_NAMES[placement]}: {_times(batch)}{_shown(planned)} need {_gb(peak)} "
        f"of {_gb(free)} free{why}; VAE tiling {'on' if vae_tiling else 'off'}",
        warning=_risk(planned, wanted, fitting, placement),
    )


def encoding_policy(
    variant: Variant,
    sizes: ComponentSizes,
    free: int,
    choice: MemoryChoice = "auto",
    prompts: int = 1,
) -> MemoryPolicy:
    """How to hold a text encoder that is loaded alone, for `prompts` at once.

    With nothing to make room for, model offload would be the same as resident.
    """
    allowed = (choice,) if choice in ("group-offload", "sequential") else _FOR_ENCODING
    peaks = {p: encoding_peak(variant, sizes, p, prompts) for p in allowed}
    fitting = [p for p in allowed if peaks[p] * MARGIN <= free]
    placement = (fitting or allowed[-1:])[0]
    return MemoryPolicy(
        placement=placement,
        device="cuda",
        vae_tiling=False,
        peak=peaks[placement],
        reason=f"{_ENCODING_NAMES[placement]}: {prompts} prompts need {_gb(peaks[placement])} "
        f"of {_gb(free)} free",
        warning="" if fitting else "Encoding prompts may fail for want of GPU memory.",
    )


def _why_not_faster(placement: Placement, peaks: Mapping[Placement, int]) -> str:
    faster = PLACEMENTS[: PLACEMENTS.index(placement)]
    if not faster:
        return ""
    return f" ({faster[-1]} would need {_gb(int(peaks[faster[-1]] * MARGIN))} to be safe)"


def _risk(
    planned: VideoSize, wanted: VideoSize, fitting: list[Placement], placement: Placement
) -> str:
    if placement not in fitting:
        safe = f"{VARIABLE}={fitting[0]} is" if fitting else "No other choice is"
        return f"Requests may fail for want of GPU memory. {safe} safe."
    if planned != wanted:
        return f"Requests larger than {_shown(planned)} may fail for want of GPU memory."
    return ""


def _times(batch: int) -> str:
    return f"{batch} videos at once of " if batch > 1 else ""


def _shown(video: VideoSize) -> str:
    return f"{video.frames} frames of {video.width}×{video.height}"


def cpu_policy(choice: MemoryChoice = "auto") -> MemoryPolicy:
    """The policy for a machine without a GPU: there is nowhere to move anything to."""
    ignored = f"{VARIABLE} is {choice}, which has no effect without a CUDA device."
    return MemoryPolicy(
        placement="resident",
        device="cpu",
        vae_tiling=True,
        peak=None,
        reason="on the CPU: this machine has no CUDA device",
        warning="" if choice == "auto" else ignored,
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
