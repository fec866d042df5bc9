"""What a dataset's layout names, before any file was opened."""

from dataclasses import dataclass
from pathlib import Path

from training.dataset.clip import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Problem, is_image, is_video

_READ = ", ".join(suffix[1:] for suffix in VIDEO_SUFFIXES)
_PICTURES = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedClip:
    """A video or image with its caption, and what `image` names beside it."""

    path: Path
    prompt: str
    image: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The clips that a layout names, what it names wrongly, and what is worth knowing of it."""

    clips: tuple[ListedClip, ...]
    left_out: tuple[Problem, ...]
    notes: tuple[Problem, ...] = ()


def kind_problem(path: Path, *, images: bool) -> Problem | None:
    """Why a file is not of a kind that can be a clip, by its name, or None if it is.

    `images`: pictures were asked for.
    """
    if is_video(path) or (images and is_image(path)):
        return None
    if is_image(path):
        return Problem(
            path=path,
            found="It is an image, and only videos were asked for.",
            remedy="Use --images to train on images too, as clips of one frame.",
        )
    return Problem(
        path=path,
        found=f"{path.suffix or 'No suffix'} is neither a video's suffix nor an image's.",
        remedy=f"Save it anew as a video ({_READ}) or an image ({_PICTURES}).",
    )
