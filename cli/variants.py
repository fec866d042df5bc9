"""List the model variants and their rules."""

import argparse
import dataclasses
import json
from pathlib import Path

from predictors.frame_size import shown_sizes
from weights.errors import UserError
from weights.variants import VARIANTS, Variant

EXAMPLES = """examples:
  cogvideox variants
  cogvideox variants --json
"""

_MARKERS = ("<!-- variants: made by `make docs` -->", "<!-- end of variants -->")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print every number of the table")
    parser.add_argument(
        "--update-readme", type=Path, metavar="FILE", help="rewrite the table in FILE"
    )


def _sizes(variant: Variant) -> str:
    default = f"; default {variant.width}×{variant.height}" if variant.any_aspect else ""
    return shown_sizes(variant) + default


def _frames(variant: Variant) -> str:
    frames = variant.legal_frames
    if len(frames) == 1:
        return str(frames[0])
    return f"{frames[0]}, {frames[1]}, … {frames[-1]}; default {variant.default_frames}"


def table() -> str:
    """The variants as a Markdown table."""
    lines = [
        "| variant | task | size | frames | fps | prompt tokens | trained in | licence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for v in VARIANTS.values():
        lines.append(
            f"| `{v.name}` | {v.task} | {_sizes(v)} | {_frames(v)} | {v.fps} "
            f"| {v.text_tokens} | {v.dtype} | {v.licence} |"
        )
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """`readme` with today's table between the markers.

    Raises:
        UserError: the markers are not there.
    """
    start, end = _MARKERS
    if start not in readme or end not in readme:
        raise UserError(
            "The file has no place for the table of variants.",
            f"It is expected between the lines {start} and {end}.",
            "Add these two lines.",
        )
    before, rest = readme.split(start, 1)
    return f"{before}{start}\n{table()}\n{end}{rest.split(end, 1)[1]}"


def run(options: argparse.Namespace) -> int:
    if options.update_readme:
        text = options.update_readme.read_text(encoding="utf-8")
        options.update_readme.write_text(with_table(text), encoding="utf-8")
    elif options.json:
        rows = [
            dataclasses.asdict(v) | {"legal_frames": v.legal_frames, "legal_sizes": v.legal_sizes}
            for v in VARIANTS.values()
        ]
        print(json.dumps(rows, indent=2))
    else:
        print(table())
    return 0
