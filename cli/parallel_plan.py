"""What `cogvideox plan --parallel N` prints: the ways to share one video between N devices."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from predictors.memory_estimate import VideoSize
from sampling.parallel.layouts import (
    Layout,
    chosen_layout,
    legal_devices,
    parallel_layouts,
    share,
    video_tokens,
)
from weights.variants import Variant


def parallel_plan(
    videos: Sequence[tuple[Variant, VideoSize]], devices: int, *, as_json: bool
) -> str:
    """A Markdown table, or a JSON document, of every legal layout, the one that is used first.

    Raises:
        UserError: no variant has one; names the nearest numbers of devices that have.
    """
    if not any(parallel_layouts(variant, devices, video) for variant, video in videos):
        variant, video = videos[0]
        chosen_layout(variant, devices, video)
    if as_json:
        plans = [_document(variant, video, devices) for variant, video in videos]
        return json.dumps({"parallel": devices, "plans": plans}, indent=2)
    lines = [
        "| variant | video | tokens | Ulysses × guidance | tokens of a GPU | heads | passes |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant, video in videos:
        size = f"{video.frames} × {video.width}×{video.height}"
        tokens = f"{variant.text_tokens} + {video_tokens(variant, video)}"
        row = f"| {variant.name} | {size} | {tokens} |"
        layouts = parallel_layouts(variant, devices, video)
        lines += [f"{row} {_cells(variant, layout, video)} |" for layout in layouts]
        if not layouts:
            legal = ", ".join(map(str, legal_devices(variant, video)))
            lines.append(f"{row} none; legal: {legal} | | | |")
    return "\n".join(
        [
            *lines,
            "",
            "Tokens of the text + of the video. A variant's first row is the one that is used; "
            "without guidance (a scale of 1), the one × 1. In attention a GPU has its heads of all "
            "tokens. ≤: the largest part, others are smaller by one.",
        ]
    )


def _cells(variant: Variant, layout: Layout, video: VideoSize) -> str:
    part = share(variant, layout, video)
    most = "≤ " if part.uneven else ""
    return (
        f"{layout.ulysses} × {layout.cfg} | {most}{part.text_tokens} + {part.video_tokens} "
        f"| {part.heads} | {part.passes}"
    )


def _document(variant: Variant, video: VideoSize, devices: int) -> dict[str, Any]:
    return {
        "variant": variant.name,
        "video": asdict(video),
        "text_tokens": variant.text_tokens,
        "video_tokens": video_tokens(variant, video),
        "layouts": [
            asdict(layout) | {"share": asdict(share(variant, layout, video))}
            for layout in parallel_layouts(variant, devices, video)
        ],
        "legal_devices": list(legal_devices(variant, video)),
    }
