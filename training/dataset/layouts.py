"""Which layout a dataset has, and what it names."""

from pathlib import Path

from training.dataset.clip import is_video
from training.dataset.clip_rules import ClipRules
from training.dataset.listing import Listing
from training.dataset.metadata_file import METADATA, list_metadata
from training.dataset.sat_layout import LABELS, VIDEOS, list_sat_layout
from training.dataset.visible_files import visible_entries
from weights.errors import UserError


def list_clips(data: Path, rules: ClipRules) -> Listing:
    """What the dataset in the folder `data`, or in the only folder inside of it, names.

    Raises:
        UserError: there is no folder `data`, or nothing in it, or no dataset.
        OSError: a folder can't be read.
    """
    root = _root(data)
    has_metadata, has_labels = (root / METADATA).is_file(), (root / LABELS).is_dir()
    if has_metadata and has_labels:
        raise UserError(
            f"{root} has {METADATA} and {LABELS}.",
            "The captions are expected in one of them.",
            "Move the other one away.",
        )
    if has_metadata:
        return list_metadata(root, images=rules.images, first_frames=rules.first_frames)
    if has_labels and (root / VIDEOS).is_dir():
        return list_sat_layout(root, images=rules.images)
    raise UserError(
        f"{root} has no {METADATA}, {_missing(root)}.",
        f"A dataset is {VIDEOS}/N.mp4 beside {LABELS}/N.txt, or {METADATA} beside the videos that "
        "its lines name.",
        _remedy(root),
    )


def _root(data: Path) -> Path:
    if not data.is_dir():
        given = "is not a folder" if data.exists() else "does not exist"
        raise UserError(
            f"{data} {given}.", "A folder with a dataset is expected.", "Check the path."
        )
    entries = visible_entries(data)
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name not in (VIDEOS, LABELS):
        data, entries = entries[0], visible_entries(entries[0])
    if not entries:
        raise UserError(
            f"{data} is empty.",
            "A folder with videos and their captions is expected.",
            f"Put the videos into {VIDEOS} and a text file for each into {LABELS}.",
        )
    return data


def _missing(root: Path) -> str:
    missing = [f"{name}/" for name in (VIDEOS, LABELS) if not (root / name).is_dir()]
    return f"and no {' and no '.join(missing)}"


def _remedy(root: Path) -> str:
    if any(is_video(path) for path in visible_entries(root)):
        return f"Move the videos into {VIDEOS}, and put a text file for each into {LABELS}."
    return "Check the path, or bring the files into one of these two forms."
