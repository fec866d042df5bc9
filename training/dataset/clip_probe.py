"""What a clip's file turns out to be, decoded as far as training reads it."""

from dataclasses import dataclass
from pathlib import Path

from av.video.reformatter import ColorTrc

from training.dataset.centre_crop import centre_crop
from training.dataset.clip import Problem, UnusableClipError, is_image
from training.dataset.clip_rules import ClipRules
from training.dataset.frame_times import resampled
from training.dataset.picture_file import read_picture
from training.dataset.upright import shown_shape, upright_image
from training.dataset.video_frames import opened_video, timed_frames

_HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
_LEAST_KEPT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipProbe:
    """What training has of a video or an image."""

    width: int
    height: int
    """The size in pixels in which it is shown, upright."""
    frames: int
    """Frames of the training that the file fills."""
    hdr: bool = False


def probe_clip(path: Path, rules: ClipRules) -> ClipProbe:
    """Read a clip as training will, and keep nothing of it.

    Raises:
        UnusableClipError: it can't be read, or is too short.
    """
    if is_image(path):
        picture = read_picture(path, (rules.width, rules.height))
        return ClipProbe(width=picture.width, height=picture.height, frames=1)
    with opened_video(path) as (container, stream):
        shown = resampled(timed_frames(container, stream, path), rules.fps, rules.frames)
        first = next(shown)
        upright_image(first)
        count = 1 + sum(1 for _ in shown)
        width, height = shown_shape(first, stream.sample_aspect_ratio)
    if 2 * count < rules.frames:
        raise _too_short(count, rules)
    return ClipProbe(width=width, height=height, frames=count, hdr=first.color_trc in _HDR)


def notes_on(path: Path, probe: ClipProbe, rules: ClipRules) -> list[Problem]:
    """What is worth knowing of a clip that is used."""
    crop = centre_crop((probe.width, probe.height), (rules.width, rules.height))
    shape, size = f"{probe.width}×{probe.height}", f"{rules.width}×{rules.height}"
    missing = 0 if is_image(path) else rules.frames - probe.frames
    found: list[tuple[bool, str, str]] = [
        (
            missing > 0,
            f"It fills {probe.frames} of {rules.frames} frames; its last one is repeated for "
            f"{missing}.",
            f"Use a clip of {rules.frames / rules.fps:.1f} s, or else the model may learn to "
            "stand still.",
        ),
        (
            crop.scaled[0] > probe.width or crop.scaled[1] > probe.height,
            f"It has {shape} pixels and is scaled up to {size}.",
            "Use a larger original, or else the model may learn to blur.",
        ),
        (
            crop.kept < _LEAST_KEPT,
            f"Of its {shape} pixels {crop.kept:.0%} are left after cropping to {size}.",
            "See in the contact sheet whether what matters is left, or cut out the part yourself.",
        ),
        (
            probe.hdr,
            "It is HDR and is read without tone mapping: its colours come out flat.",
            "Convert it to SDR first, or turn HDR video off in the camera.",
        ),
    ]
    return [Problem(path=path, found=text, remedy=remedy) for holds, text, remedy in found if holds]


def _too_short(count: int, rules: ClipRules) -> UnusableClipError:
    seconds = rules.frames / rules.fps
    return UnusableClipError(
        f"It is too short: it fills {count} of {rules.frames} frames at {rules.fps} per second.",
        f"Use a clip of {seconds:.1f} s, {seconds / 2:.1f} s at least, or train on fewer frames.",
    )
