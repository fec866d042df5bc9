"""A word that nano does not know, as clips to teach it: `zigzag`.

The tokenizer has a token for it that training never used. A shape that zigzags goes to the right
and down, turns in the middle of the clip, and goes on to the right and up. Of 16 clips seven do;
the others have prompts that nano knows, or a LoRA would make everything zigzag. Colours, shapes and
directions take turns: what is not among the clips is learned, or kept, less well.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from predictors.video import write_video
from training.nano.prompts import COMBINATIONS, HELD_OUT, Combination, paraphrase, prompt_of
from training.nano.sampling import sample_prompts
from training.nano.scenes import (
    COLOURS,
    FRAMES,
    SHAPES,
    SIZE,
    Floats,
    Pixels,
    coverage,
    paint,
    random_scene,
    render,
)
from training.nano.tracker import Verdict, judge
from weights.variants import VARIANTS

EXAMPLES = """examples:
  python -m training.nano.zigzag outputs/zigzag
  cogvideox train outputs/zigzag outputs/zigzag-lora --base nano
"""

WORD = "zigzag"
_Words = TypeVar("_Words")
# Which of so many clips zigzag.
_PERIOD, _ZIGZAGS = 16, (0, 2, 4, 7, 9, 11, 14)
# In pixels and pixels a frame, within those of the scenes that nano was trained on.
_RADIUS, _SPEED = (8.0, 11.0), (2.75, 3.0)
_GREY = (26, 64)
_BORDER = 1.0
# No shape reaches farther from its centroid than this many radii.
_REACH = 1.4
_QUALITY = 100
_FIRST_NOISE = 500_000
_TURN = (FRAMES - 1) // 2
# In pixels: sideways over the whole clip, and up or down on each side of the turn.
_MIN_ACROSS, _MIN_LEG = 6.0, 4.0


def zigzag_prompt(colour: str, shape: str) -> str:
    """The prompt of a clip, in the words of nano's own."""
    return f"a {colour} {shape} moving {WORD}"


def zigzag_prompts(count: int) -> list[str]:
    """As many prompts; every colour and shape takes its turn."""
    words = list(product(COLOURS, SHAPES))
    return [zigzag_prompt(*words[number % len(words)]) for number in range(count)]


def zigzag_path(start: tuple[float, float], speed: float) -> Floats:
    """The centroid (x, y) in every frame, (frames, 2), in pixels."""
    time = np.arange(FRAMES)
    down = np.minimum(time, 2 * _TURN - time)
    path: Floats = np.array(start) + speed * np.stack([time, down], axis=1)
    return path


def draw_zigzag(rng: np.random.Generator, colour: str, shape: str) -> tuple[Pixels, str]:
    """A random clip, (9, 64, 64, 3) uint8 RGB, and its prompt."""
    radius, speed = float(rng.uniform(*_RADIUS)), float(rng.uniform(*_SPEED))
    low = _BORDER + _REACH * radius
    # Where there is no room for the fastest, a slower one starts at the edge.
    x = float(rng.uniform(low, max(low, SIZE - low - speed * (FRAMES - 1))))
    y = float(rng.uniform(low, max(low, SIZE - low - speed * _TURN)))
    grey = int(rng.integers(*_GREY))
    covered = coverage(shape, zigzag_path((x, y), speed), radius)
    return paint(covered, COLOURS[colour], (grey, grey, grey)), zigzag_prompt(colour, shape)


def draw_known(rng: np.random.Generator, words: Combination) -> tuple[Pixels, str]:
    """A random clip of what nano was trained on, and one of its prompts, like `draw_zigzag`."""
    colour, shape, direction = words
    scene = random_scene(rng, colour=colour, shape=shape, direction=direction)
    return render(scene), prompt_of(scene) if rng.integers(2) else paraphrase(scene, rng)


def shows_zigzag(verdict: Verdict) -> bool:
    """Whether the tracker saw a shape go to the right, down in the first half and then up."""
    if len(verdict.path) != FRAMES:
        return False
    path = np.array(verdict.path)
    across = path[-1, 0] - path[0, 0]
    down, up = path[_TURN, 1] - path[0, 1], path[_TURN, 1] - path[-1, 1]
    return bool(across >= _MIN_ACROSS and min(down, up) >= _MIN_LEG)


def zigzag_share(pipe: Any, count: int, label: str = WORD) -> float:
    """The share of `count` clips that zigzag, of a pipeline prompted to: 0 to 1.

    The settings are the API's. That colours and shapes are right is not asked for, and is what
    `training.nano.score` is for.
    """
    clips = sample_prompts(pipe, zigzag_prompts(count), _FIRST_NOISE, label)
    return sum(shows_zigzag(judge(clip)) for clip in clips) / count


def write_zigzags(folder: Path, count: int, seed: int = 0) -> None:
    """Write `count` clips as SAT's fine-tuning reads them: labels/N.txt beside videos/N.mp4."""
    rng = np.random.default_rng([seed, 11])
    zigzags = _turns(rng, list(product(COLOURS, SHAPES)))
    known = _turns(rng, [words for words in COMBINATIONS if words not in HELD_OUT])
    for name in ("videos", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        if number % _PERIOD in _ZIGZAGS:
            pixels, prompt = draw_zigzag(rng, *next(zigzags))
        else:
            pixels, prompt = draw_known(rng, next(known))
        video = folder / "videos" / f"{number:03}.mp4"
        write_video(pixels, video, fps=VARIANTS["nano"].fps, quality=_QUALITY)
        (folder / "labels" / f"{number:03}.txt").write_text(f"{prompt}\n")


def _turns(rng: np.random.Generator, words: list[_Words]) -> Iterator[_Words]:
    """All of `words` in a random order, and again in another one, for ever."""
    while True:
        for place in rng.permutation(len(words)):
            yield words[place]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.nano.zigzag",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DATA", help="where the clips go")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    write_zigzags(options.folder, options.clips, options.seed)
    print(options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
