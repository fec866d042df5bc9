"""What of a dataset is used, what is left out and why: as values, as text and as JSON."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from training.dataset.clip import Clip, Problem, is_image
from training.dataset.clip_rules import ClipRules
from weights.errors import UserError

_NAMED = 5
_LISTED = 20
_PROMPT = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReport:
    """The clips of a dataset that are used, and the files that are not."""

    used: tuple[Clip, ...]
    left_out: tuple[Problem, ...]
    notes: tuple[Problem, ...]
    """What is worth knowing of clips that are used nevertheless."""


def require_usable(report: DatasetReport, *, skip_bad: bool) -> None:
    """Refuse a dataset with bad clips, unless they are to be skipped, and one without good ones.

    Raises:
        UserError: it names the first files that can't be used, each with its remedy.
    """
    bad = len(report.left_out)
    total = len(report.used) + bad
    if bad and not (skip_bad and report.used):
        aside = "" if not report.used else ", or leave them out with --skip-bad"
        raise UserError(
            f"{bad} of {total} clips can't be used.",
            "All are expected to be usable." if report.used else "At least one is expected.",
            f"Mend these{aside}:\n" + "\n".join(_cut(_lines(report.left_out), _NAMED)),
        )
    if not report.used:
        raise UserError(
            "The dataset names no clips.",
            "At least one clip is expected.",
            "Put videos and their captions into it.",
        )


def report_lines(report: DatasetReport, rules: ClipRules) -> list[str]:
    """The report for people: what is used, then what is left out, then notes."""
    clips = [
        f"  {_shown(clip.path)}: {_start(clip.prompt)}"
        + (f" (image: {_shown(clip.image)})" if clip.image else "")
        for clip in report.used
    ]
    lines = [_summary(report, rules), *_cut(clips, _LISTED)]
    if report.left_out:
        lines += [f"Left out: {len(report.left_out)}.", *_lines(report.left_out)]
    if report.notes:
        lines += [f"Notes: {len(report.notes)}.", *_cut(_lines(report.notes), _LISTED)]
    return lines


def report_json(report: DatasetReport, rules: ClipRules) -> dict[str, Any]:
    """The whole report as `json.dumps` takes it."""
    return {
        "rules": asdict(rules),
        "used": [
            {
                "path": str(clip.path),
                "prompt": clip.prompt,
                "image": None if clip.image is None else str(clip.image),
                "frames": clip.frames,
            }
            for clip in report.used
        ],
        "left_out": [_fields(problem) for problem in report.left_out],
        "notes": [_fields(problem) for problem in report.notes],
    }


def _summary(report: DatasetReport, rules: ClipRules) -> str:
    images = sum(is_image(clip.path) for clip in report.used)
    videos = len(report.used) - images
    kinds = [_counted(videos, "video")] if videos or not images else []
    kinds += [_counted(images, "image")] if images else []
    return (
        f"Used: {' and '.join(kinds)}, each brought to {rules.width}×{rules.height}; a video to "
        f"{rules.frames} frames at {rules.fps} per second ({rules.frames / rules.fps:.1f} s)."
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _lines(problems: Iterable[Problem]) -> list[str]:
    return [f"  {_shown(item.path)}: {item.found} {item.remedy}" for item in problems]


def _cut(lines: list[str], most: int) -> list[str]:
    more = len(lines) - most
    return lines if more <= 0 else [*lines[:most], f"  and {more} more"]


def _fields(problem: Problem) -> dict[str, str]:
    return asdict(problem) | {"path": str(problem.path)}


def _shown(path: object) -> str:
    """A path as it can be printed, also where its name is not UTF-8."""
    return str(path).encode(errors="backslashreplace").decode()


def _start(prompt: str) -> str:
    text = " ".join(prompt.split())
    return text if len(text) <= _PROMPT else f"{text[: _PROMPT - 1]}…"
