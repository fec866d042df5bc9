"""The `speed` of a request: how many denoising steps compute all of the transformer.

The blocks' output minus their input, their residual, changes little from one step to the next. A
step that reuses the last one computed costs no block at all, and its input still passes. diffusers'
MagCache does that; benchmarks/speed_presets.py is how it was chosen.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

Speed = Literal["quality", "balanced", "fast"]
SPEEDS: tuple[Speed, ...] = ("quality", "balanced", "fast")


@dataclass(frozen=True, slots=True)
class Reuse:
    """Which steps reuse a residual: none in the first `full` of all steps, where a video is laid
    out, and none that is older than `age` of all steps.

    Both are shares, so that few steps, which lie far apart, reuse less or nothing.
    """

    full: float
    age: float


PRESETS: dict[Speed, Reuse] = {
    "balanced": Reuse(full=0.4, age=0.02),
    "fast": Reuse(full=0.3, age=0.04),
}

# MagCache skips a step where the error that it expects stays below its threshold. It expects it
# from ratios measured on one checkpoint; these two, which stand for "none" and "too much", make it
# follow our schedule on every model, so that a preset's time is known beforehand.
_SKIP, _COMPUTE = 1.0, 10.0
_THRESHOLD = 0.5

# One thread, so that a change waits for the one before, which a cancelled request no longer awaits.
_changes = ThreadPoolExecutor(1, thread_name_prefix="speed")


def computed_steps(speed: Speed, steps: int) -> list[bool]:
    """For each step whether its blocks are computed; the first and the last always are.

    An error of the last step would go into the video as it is.
    """
    reuse = PRESETS.get(speed)
    if reuse is None:
        return [True] * steps
    full = max(1, math.ceil(reuse.full * steps))
    period = 1 + round(reuse.age * steps)
    return [index < full or (steps - 1 - index) % period == 0 for index in range(steps)]


@contextmanager
def speed_preset(pipe: Any, speed: Speed, steps: int) -> Iterator[None]:
    """Within it, one run of `pipe` with `steps` steps goes at `speed`; with "quality" untouched.

    Afterwards nothing of it is left, however the run ended.
    """
    transformer = pipe.transformer
    # Of a request that was cancelled in the middle of its own clearing.
    _apart(lambda: _clear(transformer))
    computed = computed_steps(speed, steps)
    if all(computed):
        yield
        return
    try:
        _apart(lambda: _enable(transformer, computed))
        yield
    finally:
        _apart(lambda: _clear(transformer))


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


def _apart(change: Callable[[], None]) -> None:
    """Do `change` in another thread, so that it is done wholly.

    Cancelling raises in the request's thread, between any two bytecodes: hooks that were put on or
    taken off by half would stay on the model for good.
    """
    _changes.submit(change).result()
