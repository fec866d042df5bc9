"""Which clips a step learns from: the same ones on one process and on many.

Each epoch has every clip once, in an order of its own. All clips of a step have the same number of
frames; where an epoch's last step of a frame count has too few left, it begins again with the first
of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a step's global batch that one forward pass of one process sees.

    `first` is the place of its first sample in the global batch; `clips` are numbers of clips.
    """

    first: int
    clips: tuple[int, ...]


def steps_per_epoch(frames: Sequence[int], global_batch: int) -> int:
    """How many steps show every clip once; `frames` are those of each clip."""
    return sum(-(-len(group) // global_batch) for group in _groups(frames))


def global_batch_of(
    step: int, frames: Sequence[int], global_batch: int, seed: int
) -> tuple[int, ...]:
    """The clips, `global_batch` of them, that step `step` of a run learns from."""
    epoch, place = divmod(step, steps_per_epoch(frames, global_batch))
    rng = np.random.default_rng([seed, epoch])
    runs: list[tuple[int, ...]] = []
    for group in _groups(frames):
        order = rng.permutation(group)
        filled = np.resize(order, -(-len(order) // global_batch) * global_batch)
        runs += [tuple(map(int, run)) for run in filled.reshape(-1, global_batch)]
    return runs[int(rng.permutation(len(runs))[place])]


def shares(clips: Sequence[int], *, batch: int, processes: int, process: int) -> list[Share]:
    """The forward passes of one process, in order.

    Each pass takes `batch` samples on each process, so that a global batch is the same whether many
    processes see it at once or one after the other.
    """
    firsts = range(process * batch, len(clips), processes * batch)
    return [Share(first, tuple(clips[first : first + batch])) for first in firsts]


def _groups(frames: Sequence[int]) -> list[list[int]]:
    """The numbers of the clips of each frame count."""
    return [[n for n, each in enumerate(frames) if each == count] for count in sorted(set(frames))]
