"""Looks at every clip of a dataset before training begins."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from training.dataset.caption import check_caption
from training.dataset.clip import Clip, Problem, UnusableClipError, is_image
from training.dataset.clip_probe import notes_on, probe_clip
from training.dataset.clip_rules import ClipRules
from training.dataset.layouts import list_clips
from training.dataset.picture_file import read_picture
from training.dataset.report import DatasetReport
from training.progress import Steps

_SIZES_SHOWN = 4


def check_dataset(
    data: Path, rules: ClipRules, *, count_tokens: Callable[[str], int], max_tokens: int
) -> DatasetReport:
    """Find out which clips of the folder `data` can be used, by reading them as training will.

    Args:
        count_tokens: how many tokens a caption has, its end mark included.
        max_tokens: how many of them the model takes.

    Raises:
        UserError: `data` is no folder with a dataset.
        OSError: a folder can't be read.
    """
    listing = list_clips(data, rules)
    used: list[Clip] = []
    left_out = list(listing.left_out)
    notes = list(listing.notes)
    shapes: Counter[tuple[int, int]] = Counter()
    for index in Steps("checking the clips", 0, len(listing.clips)):
        listed = listing.clips[index]
        at_fault = listed.path
        try:
            check_caption(listed.prompt, count_tokens, max_tokens)
            probe = probe_clip(listed.path, rules)
            if listed.image is not None:
                at_fault = listed.image
                read_picture(listed.image, (rules.width, rules.height))
        except UnusableClipError as error:
            left_out.append(error.problem(at_fault))
            continue
        frames = 1 if is_image(listed.path) else rules.frames
        used.append(Clip(path=listed.path, prompt=listed.prompt, image=listed.image, frames=frames))
        notes += notes_on(listed.path, probe, rules)
        shapes[probe.width, probe.height] += 1
    notes += _mixed_sizes(data, shapes, rules)
    return DatasetReport(used=tuple(used), left_out=tuple(left_out), notes=tuple(notes))


def _mixed_sizes(data: Path, shapes: Counter[tuple[int, int]], rules: ClipRules) -> list[Problem]:
    if len(shapes) < 2:
        return []
    shown = [f"{width}×{height} ({n})" for (width, height), n in shapes.most_common(_SIZES_SHOWN)]
    more = len(shapes) - len(shown)
    return [
        Problem(
            path=data,
            found=f"Its clips have {len(shapes)} sizes: {', '.join(shown)}"
            + (f" and {more} more." if more else "."),
            remedy=f"Each is scaled and cropped to {rules.width}×{rules.height} by itself; see in "
            "the contact sheet whether what matters is left.",
        )
    ]
