"""SAT's layout: a folder `videos`, and beside it a folder `labels` with a text for each video.

The caption is the label's first line, as SAT's SFTDataset reads it (zai-org/CogVideo,
`sat/data_video.py`). SAT trains on a video without label with an empty caption; here it is left
out, since that is mostly a slip.
"""

import codecs
from pathlib import Path

from training.dataset.clip import Problem, UnusableClipError, is_image, is_video
from training.dataset.listing import ListedClip, Listing, kind_problem
from training.dataset.visible_files import natural_order, visible_below

VIDEOS, LABELS = "videos", "labels"

# A caption has some hundred words. A video that was named N.txt by mistake has GBs.
_MAX_LABEL_BYTES = 1 << 20


def list_sat_layout(root: Path, *, images: bool) -> Listing:
    """Pair what is below `root`/videos with what is below `root`/labels.

    `images`: pictures in `videos` were asked for.

    Raises:
        OSError: a folder can't be read.
    """
    labels = _labels(root / LABELS)
    clips: list[ListedClip] = []
    left_out: list[Problem] = []
    notes: list[Problem] = []
    owners: dict[Path, Path] = {}
    for path in _media(root / VIDEOS, labels):
        label = labels.get(_key(path, root / VIDEOS))
        try:
            if problem := kind_problem(path, images=images):
                left_out.append(problem)
            elif label is None:
                raise _no_label(root, path)
            elif label in owners:
                raise _shared(label, owners[label])
            else:
                prompt, unread = _caption(label)
                clips.append(ListedClip(path=path, prompt=prompt))
                notes.extend(_unread_lines(label, unread))
        except UnusableClipError as error:
            left_out.append(error.problem(path))
        if label is not None:
            owners.setdefault(label, path)
    left_out += [_no_video(root, label) for label in labels.values() if label not in owners]
    return Listing(clips=tuple(clips), left_out=tuple(left_out), notes=tuple(notes))


def _key(path: Path, folder: Path) -> Path:
    return path.relative_to(folder).with_suffix("")


def _labels(folder: Path) -> dict[Path, Path]:
    found = (path for path in visible_below(folder) if path.suffix.lower() == ".txt")
    return {_key(path, folder): path for path in found}


def _media(folder: Path, labels: dict[Path, Path]) -> list[Path]:
    """Videos first, so that of a video and a picture of one name the video has the label.

    A file of another kind counts where a label says that it is meant to be a clip.
    """
    found = [
        path
        for path in visible_below(folder)
        if is_video(path) or is_image(path) or (path.is_file() and _key(path, folder) in labels)
    ]
    return sorted(found, key=lambda path: (not is_video(path), natural_order(path)))


def _caption(label: Path) -> tuple[str, int]:
    """A label's first line, and how many lines after it are not empty."""
    try:
        with label.open("rb") as file:
            data = file.read(_MAX_LABEL_BYTES + 1)
        if len(data) > _MAX_LABEL_BYTES:
            raise ValueError(f"it has more than {_MAX_LABEL_BYTES} bytes")
        lines = data.removeprefix(codecs.BOM_UTF8).decode().splitlines() or [""]
    except (OSError, ValueError) as error:
        raise UnusableClipError(
            f"Its label {label} can't be read ({error}).", "Save it as plain text in UTF-8."
        ) from None
    return lines[0].strip(), sum(bool(line.strip()) for line in lines[1:])


def _unread_lines(label: Path, count: int) -> list[Problem]:
    if not count:
        return []
    return [
        Problem(
            path=label,
            found=f"It has {count} more line{'s' * (count > 1)} after the first, which alone is "
            "the caption.",
            remedy="Put all that belongs to the caption on the first line.",
        )
    ]


def _no_label(root: Path, path: Path) -> UnusableClipError:
    label = root / LABELS / _key(path, root / VIDEOS)
    return UnusableClipError(
        "It has no label.", f"Write its caption into {label}.txt, or remove it."
    )


def _shared(label: Path, owner: Path) -> UnusableClipError:
    return UnusableClipError(
        f"Its label {label} is also that of {owner}.",
        "Remove one of the two, or give it a name and a label of its own.",
    )


def _no_video(root: Path, label: Path) -> Problem:
    video = root / VIDEOS / _key(label, root / LABELS)
    return Problem(
        path=label,
        found="No video belongs to it.",
        remedy=f"Put the video at {video}.mp4 (or another suffix), or remove the label.",
    )
