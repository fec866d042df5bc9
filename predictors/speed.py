"""The `speed` of a request: how many denoising steps compute all of the transformer.

The blocks' output minus their input, their residual, changes little from one step to the next. A
step that reuses the last one computed costs no block at all, and its input still passes. MagCache
of diffusers does that.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from predictors.uninterrupted import uninterrupted

Speed = Literal["quality", "balanced", "fast"]


@dataclass(frozen=True, slots=True)
class Reuse:
    """Which steps reuse a residual, as shares of all steps: none of the `first`, where the video is
    laid out, none of the `last`, whose errors nothing mends, and no residual older than `age`.

    Few steps lie far apart: with 12 or fewer, nothing is reused.
    """

    first: float
    last: float
    age: float


# Chosen with benchmarks/speed_presets.py; of 50 steps they compute 36 and 25. Against quality's
# frames that gave 48 and 36 dB on nano with dpm, 52 and 44 with ddim, and as many clips right as
# before. At as much work FirstBlockCache gave 42 and 28 dB with dpm: its threshold lets early and
# last steps be skipped, and what it means differs from model to model. TaylorSeer's extrapolation
# was better with ddim, where it no longer matters, and worse with dpm.
PRESETS: dict[Speed, Reuse] = {
    "balanced": Reuse(first=0.4, last=0.06, age=0.02),
    "fast": Reuse(first=0.2, last=0.06, age=0.04),
}

# MagCache skips a step where the error that it expects stays below its threshold. It expects it
# from ratios measured on one checkpoint; these two, which stand for "none" and "too much", make it
# follow our schedule on every model, so that a preset's time is known beforehand.
_SKIP, _COMPUTE = 1.0, 10.0
_THRESHOLD = 0.5


def computed_steps(speed: Speed, steps: int) -> list[bool]:
    """For each step whether its blocks are computed; the first and the last always are."""
    reuse = PRESETS.get(speed)
    if reuse is None:
        return [True] * steps
    begin = max(1, math.ceil(reuse.first * steps))
    end = steps - max(1, math.ceil(reuse.last * steps))
    period = 1 + round(reuse.age * steps)
    return [not begin <= step < end or (end - step) % period == 0 for step in range(steps)]


@contextmanager
def speed_preset(pipe: Any, speed: Speed, steps: int) -> Iterator[None]:
    """Within it, one run of `pipe` with `steps` steps goes at `speed`; with "quality" untouched.

    Afterwards nothing of it is left, however the run ended.
    """
    transformer = pipe.transformer
    # Of a request that was cancelled just before its own clearing.
    uninterrupted(lambda: _clear(transformer))
    computed = computed_steps(speed, steps)
    if all(computed):
        yield
        return
    try:
        uninterrupted(lambda: _enable(transformer, computed))
        yield
    finally:
        uninterrupted(lambda: _clear(transformer))


def _enable(transformer: Any, computed: list[bool]) -> None:
    from diffusers import MagCacheConfig

    transformer.enable_cache(
        MagCacheConfig(
            threshold=_THRESHOLD,
            max_skip_steps=len(computed),
            retention_ratio=0,
            num_inference_steps=len(computed),
            mag_ratios=[_COMPUTE if compute else _SKIP for compute in computed],
        )
    )


def _clear(transformer: Any) -> None:
    if not transformer.is_cache_enabled:
        return
    # The hooks refer to themselves: what they hold would stay on the GPU until Python's next
    # garbage collection.
    transformer._reset_stateful_cache()
    transformer.disable_cache()
