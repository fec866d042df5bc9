"""What every clip becomes before it is trained on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRules:
    """The shape of the training's clips, and which kinds of clip are asked for."""

    fps: int
    """Frames per second that videos are resampled to."""
    frames: int
    width: int
    height: int
    images: bool
    """Pictures are used too, as clips of one frame."""
    first_frames: bool
    """Image-to-video: each clip has an input image, its own `image` or else its first frame."""
