"""List the model variants and their rules."""

import argparse
import dataclasses
import json
from pathlib import Path

from cli.generated_table import with_table
from predictors.frame_size import shown_sizes
from weights.variants import VARIANTS, Variant

EXAMPLES = """examples:
  cogvideox variants
  cogvideox variants --json
"""


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


def run(options: argparse.Namespace) -> int:
    if options.update_readme:
        text = options.update_readme.read_text(encoding="utf-8")
        options.update_readme.write_text(with_table(text, "variants", table()), encoding="utf-8")
    elif options.json:
        rows = [
            dataclasses.asdict(v) | {"legal_frames": v.legal_frames, "legal_sizes": v.legal_sizes}
            for v in VARIANTS.values()
        ]
        print(json.dumps(rows, indent=2))
    else:
        print(table())
    return 0
