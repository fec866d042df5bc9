"""A clip that can be used, or why it can't."""

from dataclasses import dataclass
from pathlib import Path

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A clip that can be used."""

    path: Path
    """A video or an image."""
    prompt: str
    image: Path | None
    """Image-to-video's own input image; None: the first frame."""
    frames: int
    """Frames that training sees: those of the rules, 1 for an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is the matter with a file: a sentence about it, and one that says what to do."""

    path: Path
    found: str
    remedy: str


class UnusableClipError(Exception):
    """A file that a clip needs can't be used; `found` and `remedy` are as in `Problem`."""

    def __init__(self, found: str, remedy: str) -> None:
        self.found, self.remedy = found, remedy
        super().__init__(f"{found} {remedy}")

    def problem(self, path: Path) -> Problem:
        return Problem(path=path, found=self.found, remedy=self.remedy)


def is_video(path: Path) -> bool:
    """Whether a file is a video by its name. A GIF is one, of a single frame or not."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_image(path: Path) -> bool:
    """Whether a file is a picture by its name."""
    return path.suffix.lower() in IMAGE_SUFFIXES
