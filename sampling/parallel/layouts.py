"""Which ways there are to make one video on several devices, and what a device gets in each.

Ulysses (context parallelism) splits the tokens of a video between devices and, for attention, which
needs all tokens, the heads: hence heads must divide evenly. Guidance computes each step twice, with
the prompt and without; these two passes can be computed on two devices, or on two groups of them.
"""

from bisect import bisect
from dataclasses import dataclass

from predictors.memory_estimate import VideoSize
from weights.errors import UserError
from weights.variants import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION, Variant

GUIDANCE_PASSES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`ulysses` devices share the tokens of each pass, `cfg` groups of them the two passes."""

    ulysses: int
    cfg: int

    @property
    def devices(self) -> int:
        return self.ulysses * self.cfg


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What of a step the busiest device of a layout computes: so many heads in attention, so many
    text and video tokens elsewhere, in so many passes. `uneven`: another one has fewer tokens.
    """

    heads: int
    text_tokens: int
    video_tokens: int
    passes: int
    uneven: bool


def parallel_layouts(
    variant: Variant, devices: int, video: VideoSize, *, guidance: bool = True
) -> tuple[Layout, ...]:
    """The layouts of exactly `devices` devices, the one to be preferred first; maybe none.

    That is the one with split guidance: its two halves talk once a step, and devices that share
    tokens four times a layer.

    Args:
        guidance: whether there are two passes (a guidance scale above 1).
    """
    passes = (GUIDANCE_PASSES, 1) if guidance else (1,)
    return tuple(
        Layout(ulysses=devices // cfg, cfg=cfg)
        for cfg in passes
        if devices > 0 and devices % cfg == 0 and _divisible(variant, devices // cfg, video)
    )


def legal_devices(variant: Variant, video: VideoSize, *, guidance: bool = True) -> tuple[int, ...]:
    """The numbers of devices, 1 included, that have a layout, in ascending order."""
    most = variant.num_heads * (GUIDANCE_PASSES if guidance else 1)
    return tuple(
        devices
        for devices in range(1, most + 1)
        if parallel_layouts(variant, devices, video, guidance=guidance)
    )


def chosen_layout(
    variant: Variant, devices: int, video: VideoSize, *, guidance: bool = True
) -> Layout:
    """The layout to use for a video on `devices` devices.

    Raises:
        UserError: there is none; names the nearest numbers of devices that have one.
    """
    layouts = parallel_layouts(variant, devices, video, guidance=guidance)
    if layouts:
        return layouts[0]
    legal = legal_devices(variant, video, guidance=guidance)
    place = bisect(legal, devices)
    nearest = " or ".join(str(count) for count in legal[max(place - 1, 0) : place + 1])
    raise UserError(
        f"{variant.name} can't make a video on {devices} devices.",
        f"Its {variant.num_heads} heads must divide evenly between them"
        f"{', or between one half of them with guidance' if guidance else ''}: "
        f"legal are {', '.join(map(str, legal))}.",
        f"Use {nearest}.",
    )


def share(variant: Variant, layout: Layout, video: VideoSize, *, guidance: bool = True) -> Share:
    """What of `video` the busiest device of `layout` computes."""
    counts = (variant.text_tokens, video_tokens(variant, video))
    text, patches = (-(-count // layout.ulysses) for count in counts)
    return Share(
        heads=variant.num_heads // layout.ulysses,
        text_tokens=text,
        video_tokens=patches,
        passes=(GUIDANCE_PASSES if guidance else 1) // layout.cfg,
        uneven=any(count % layout.ulysses for count in counts),
    )


def video_tokens(variant: Variant, video: VideoSize) -> int:
    """Patches of all latent frames; where frames are patched in twos, with the padding one."""
    latent_frames = (video.frames - 1) // TEMPORAL_COMPRESSION + 1
    patch_frames = -(-latent_frames // (variant.patch_size_t or 1))
    side = SPATIAL_COMPRESSION * variant.patch_size
    return patch_frames * (video.height // side) * (video.width // side)


def _divisible(variant: Variant, ulysses: int, video: VideoSize) -> bool:
    """Heads divide evenly, and every device gets some of the text's and of the video's tokens."""
    tokens = min(variant.text_tokens, video_tokens(variant, video))
    return variant.num_heads % ulysses == 0 and tokens >= ulysses
