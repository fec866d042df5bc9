"""Samples nano through the real pipeline and lets the tracker judge.

    python -m training.nano.evaluate PIPELINE [--guidance 6 3 1] [--prompts 200] [--sheet OUT.png]

The settings are the API's: 50 steps, dynamic guidance. Prompts are said in all the ways of
training/nano/prompts.py; combinations of words that training never saw are listed apart.
"""

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.nano.models import NANO
from training.nano.prompts import (
    COMBINATIONS,
    HELD_OUT,
    Combination,
    combination_of,
    paraphrase,
    prompt_of,
)
from training.nano.scenes import Scene, random_scene, render
from training.nano.score import score

_SEED = 99
_HELD_OUT_EACH = 5
_BATCH = 40
# A number for the metadata of a clip that is exact: an infinite ratio has no JSON.
_MAX_PSNR = 99.0


@dataclass(frozen=True, slots=True)
class Task:
    """One clip to sample: the prompt, the scene it describes and the seed of its noise."""

    prompt: str
    scene: Scene
    seed: int


def tasks(count: int, *, held_out: bool, independent_start: bool) -> list[Task]:
    """The same tasks every time; half of the prompts are canonical."""
    rng = np.random.default_rng([_SEED, held_out])
    chosen: list[Combination] = [words for words in COMBINATIONS if (words in HELD_OUT) == held_out]
    made = []
    for number in range(count):
        colour, shape, direction = chosen[number % len(chosen)]
        scene = random_scene(
            rng,
            colour=colour,
            shape=shape,
            direction=direction,
            independent_start=independent_start,
        )
        prompt = prompt_of(scene) if number % 2 else paraphrase(scene, rng)
        made.append(Task(prompt, scene, 10_000 * (1 + held_out) + number))
    return made


def sample(pipe: Any, asked: list[Task], guidance: float, steps: int) -> list[np.ndarray]:
    """Clips `(9, 64, 64, 3)` uint8 RGB of the tasks, in batches."""
    clips: list[np.ndarray] = []
    for start in range(0, len(asked), _BATCH):
        batch = asked[start : start + _BATCH]
        images = {}
        if "image" in pipe.__class__.__name__.lower():
            first = np.stack([render(task.scene)[0] for task in batch])
            images["image"] = torch.from_numpy(first).permute(0, 3, 1, 2).float() / 255
        frames = pipe(
            prompt=[task.prompt for task in batch],
            width=NANO.width,
            height=NANO.height,
            num_frames=NANO.default_frames,
            num_inference_steps=steps,
            guidance_scale=guidance,
            use_dynamic_cfg=True,
            max_sequence_length=NANO.text_tokens,
            generator=[torch.Generator().manual_seed(task.seed) for task in batch],
            output_type="np",
            **images,
        ).frames
        clips += list(np.rint(frames * 255).astype(np.uint8))
    return clips


def _first_frame_psnr(clips: list[np.ndarray], asked: list[Task]) -> float:
    errors = [
        np.mean((clip[0].astype(float) - render(task.scene)[0]) ** 2)
        for clip, task in zip(clips, asked, strict=True)
    ]
    return float(np.mean([min(_MAX_PSNR, 10 * np.log10(255**2 / max(e, 1e-9))) for e in errors]))


def evaluate(folder: Path, guidances: list[float], count: int, steps: int) -> dict[str, Any]:
    """The tracker's scores of a pipeline, for each guidance."""
    import diffusers

    index = json.loads((folder / "model_index.json").read_text())
    pipe = getattr(diffusers, index["_class_name"]).from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    i2v = "ImageToVideo" in index["_class_name"]
    report: dict[str, Any] = {}
    for guidance in guidances:
        for held_out in (False, True):
            number = len(HELD_OUT) * _HELD_OUT_EACH if held_out else count
            asked = tasks(number, held_out=held_out, independent_start=i2v)
            clips = sample(pipe, asked, guidance, steps)
            found = dataclasses.asdict(score(clips, [combination_of(task.scene) for task in asked]))
            if i2v:
                found["first_frame_psnr"] = _first_frame_psnr(clips, asked)
            report[f"guidance {guidance:g}{', held out' if held_out else ''}"] = found
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="PIPELINE")
    parser.add_argument("--guidance", type=float, nargs="+", default=[6.0, 3.0, 1.0])
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    report = evaluate(options.folder, options.guidance, options.prompts, options.steps)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
