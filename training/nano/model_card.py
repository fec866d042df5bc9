"""The model card of a nano that ships: what it is, how it was trained, what the tracker says."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.nano.evaluate import report_table
from training.nano.prompts import HELD_OUT

_ROWS = 12
_WHAT = {
    "nano": (
        "text-to-video",
        "turns `a red circle moving left` into 9 frames of 64×64 pixels that show it",
    ),
    "nano-i2v": (
        "image-to-video",
        "moves the shape of a given 64×64 image as the prompt says, for 9 frames",
    ),
}
_RECIPE = {"nano": "text_to_video", "nano-i2v": "image_to_video"}
_CARD = """---
license: apache-2.0
pipeline_tag: {task}
tags: [cogvideox, nano]
---
# {name}

A CogVideoX of a few million parameters that {what}.
It is a model for tests, benchmarks and demos: [docs/nano.md](../../docs/nano.md) says what it is
for and what it can't do. This folder is in SAT's layout, in float16; `lock.json` is the lock of the
tarball that `cogvideox convert` and `cogvideox pack` make of it.

![24 clips that were not picked](contact_sheet.png)

The first 24 prompts of the list below, at the API's default settings; first, middle and last frame.

## What the tracker says

Sampled through the real pipeline from this folder, converted back: 50 steps, dynamic guidance, the
API's default guidance 6 first. *right*: colour and direction as asked, the asked shape fits best
and its mean IoU is at least 0.85. *clean*: also sharp, and with nothing out of place. *held out*:
the {held_out} combinations of words that training never saw together.

{table}

    python -m training.nano.evaluate PIPELINE

## How it was trained

`make nano`: clips drawn by `training/nano/scenes.py`, prompts by `training/nano/prompts.py`, first
the VAE, then text-to-video with its T5, then image-to-video from that. The recipe is
`training/nano/{recipe}_recipe.py`, its settings {recipe}.yaml:

```json
{settings}
```

{minutes}The learning curve, as means over the steps up to each row; every 20th step is in
`training.jsonl`.

{curve}

## Licence

Apache-2.0, like the repository.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished stage: its model's name, settings, log lines and tracker's report.

    `minutes` is what each stage of the whole run took, where that is known.
    """

    name: str
    settings: dict[str, Any]
    minutes: dict[str, float]
    log: list[dict[str, Any]]
    report: dict[str, Any]


def curve_table(log: list[dict[str, Any]]) -> str:
    """A Markdown table of the logged values in a dozen rows, each the mean since the one before."""
    names = [name for name in log[0] if name != "step"]
    lines = [f"| step | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for rows in np.array_split(np.arange(len(log)), min(_ROWS, len(log))):
        means = [np.mean([log[row][name] for row in rows]) for name in names]
        values = " | ".join(f"{mean:.4f}" for mean in means)
        lines.append(f"| {log[rows[-1]]['step']} | {values} |")
    return "\n".join(lines)


def _minutes(run: Run) -> str:
    if not run.minutes:
        return ""
    stages = ", ".join(f"{stage} {minutes:g}" for stage, minutes in run.minutes.items())
    return f"Minutes that the stages took in this run: {stages}.\n\n"


def model_card(run: Run) -> str:
    """The card's Markdown, with the front matter that the hub reads."""
    task, what = _WHAT[run.name]
    settings = {key: value for key, value in run.settings.items() if not isinstance(value, str)}
    return _CARD.format(
        name=run.name,
        task=task,
        what=what,
        held_out=len(HELD_OUT),
        table=report_table(run.report),
        recipe=_RECIPE[run.name],
        settings=json.dumps(settings, indent=2),
        minutes=_minutes(run),
        curve=curve_table(run.log),
    )
