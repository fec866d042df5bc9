"""The learning-rate schedules of sgm, which SAT's training code ships.

The formulas are those of zai-org/CogVideo, `sat/sgm/lr_scheduler.py` (Stability AI's
generative-models), as multiples of a base learning rate. With w steps of warm-up, a cycle of L
steps and the multipliers `start`, `highest` and `lowest`, step n of a cycle has

    n < w            start + n (highest − start) / w
    after, cosine    lowest + ½ (highest − lowest) (1 + cos πt), t = min(1, (n − w) / (L − w))
    after, linear    lowest + (highest − lowest) (L − n) / L

The linear fall is measured from the cycle's beginning: at the end of the warm-up the rate drops
from `highest` to what the line has there. The last step of a cycle is that on which it ends; the
next one is number 1 of the next cycle, and no cycle but the first sees its number 0.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

Multiplier = Callable[[int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """One rise and fall: steps, and multiples of the base learning rate."""

    warm_up: int
    length: int
    start: float
    highest: float
    lowest: float


def cosine_fall(step: int, cycle: Cycle) -> float:
    """The multiplier at a step of `cycle` that is not of its warm-up."""
    t = min(1.0, (step - cycle.warm_up) / (cycle.length - cycle.warm_up))
    return cycle.lowest + 0.5 * (cycle.highest - cycle.lowest) * (1 + math.cos(t * math.pi))


def linear_fall(step: int, cycle: Cycle) -> float:
    """The multiplier at a step of `cycle` that is not of its warm-up."""
    left = (cycle.length - step) / cycle.length
    return cycle.lowest + (cycle.highest - cycle.lowest) * left


def cyclic(cycles: Sequence[Cycle], fall: Callable[[int, Cycle], float]) -> Multiplier:
    """One cycle after the other; a step beyond them all has what the last step of the last has.

    Upstream fails there, but for a lone cosine, whose t stays at 1 as it does here.
    """
    ends = list(accumulate(cycle.length for cycle in cycles))
    beginnings = [0, *ends]

    def multiplier(step: int) -> float:
        within = min(step, ends[-1])
        index = bisect_left(ends, within)
        cycle, number = cycles[index], within - beginnings[index]
        if number < cycle.warm_up:
            return (cycle.highest - cycle.start) / cycle.warm_up * number + cycle.start
        return fall(number, cycle)

    return multiplier
