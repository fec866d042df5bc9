"""The judge of nano: which colour, shape and direction a clip shows, from its pixels alone.

All frames are compared with the ideal circle, square and triangle of the best places and size. A
shape is "right" where the asked one overlaps its ideal most, and by 0.85 or more: nano's goal is
stated in this figure. It is "clean", the stricter figure, where it also fits best throughout and by
a clear lead, nothing is out of place away from its outline (horns, dents, holes, patches of another
colour, ghosts), and the outline is not smeared.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.nano.outline import (
    Bools,
    centroids,
    fit_outline,
    half_way,
    measure_blemish,
    measure_edge,
)
from training.nano.scenes import COLOURS, DIRECTIONS, FRAMES, SHAPES, SIZE, Floats, Pixels

NONE = "none"

# Frozen, all of them: figures in model cards are only comparable under the same judge.
# What counts as right.
MIN_IOU = 0.85
MIN_FRAMES = FRAMES - 1
# What counts as clean besides.
MIN_LEAD = 0.05
MAX_BLEMISH = 0.015
MAX_EDGE = 2.5

# An object differs from its background by at least this much, as a distance in RGB.
_MIN_CONTRAST = 40.0
# And covers no more of the canvas; shapes cover an eighth at most.
_MAX_COVERED = 0.25
# Of the distance between two neighbouring hues; half would be the middle.
_MAX_HUE_SHARE = 0.35
# Of the palette's chroma.
_MIN_CHROMA_SHARE = 0.7
# In pixels over the whole clip; the same across, as a share; off a steady motion, in pixels.
_MIN_MOTION = 6.0
_MAX_DRIFT_SHARE = 0.25
_MAX_UNSTEADINESS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a clip shows; `none` where that is not clear in 8 of the 9 frames.

    `ious` is the mean IoU with the best ideal mask of each shape, over the frames that show an
    object. Of the shape that fits best, `blemish` is the area out of place over its own area and
    `edge` the width of the edge in pixels where it is widest; both None where no shape is clear.
    `path` is the object's centroid (x, y) in pixels, frame by frame.
    """

    colour: str
    shape: str
    direction: str
    ious: Mapping[str, float]
    blemish: float | None
    edge: float | None
    path: tuple[tuple[float, float], ...]


_NOTHING = Verdict(
    colour=NONE,
    shape=NONE,
    direction=NONE,
    ious=dict.fromkeys(SHAPES, 0.0),
    blemish=None,
    edge=None,
    path=(),
)


def shape_is_right(verdict: Verdict, shape: str) -> bool:
    """Whether of all shapes this one fits best, and well; never where nothing is seen."""
    best = max(verdict.ious, key=verdict.ious.__getitem__)
    return best == shape and verdict.ious[shape] >= MIN_IOU


def shape_is_clean(verdict: Verdict, shape: str) -> bool:
    """Whether the shape is right, in each frame and by a clear lead, unblemished and sharp."""
    if not shape_is_right(verdict, shape) or verdict.shape != shape:
        return False
    if verdict.blemish is None or verdict.edge is None:
        return False
    second, first = sorted(verdict.ious.values())[-2:]
    leads = first - second >= MIN_LEAD
    return leads and verdict.blemish <= MAX_BLEMISH and verdict.edge <= MAX_EDGE


def is_right(verdict: Verdict, colour: str, shape: str, direction: str) -> bool:
    """Whether a clip shows all three as asked; its shape need not be clean."""
    named = (verdict.colour, verdict.direction) == (colour, direction)
    return named and shape_is_right(verdict, shape)


@dataclass(frozen=True, slots=True)
class _Objects:
    """What stands out in each of the n frames that show something.

    times (n,) are frame numbers, cores (n, 3) the objects' own colours. `off_ground` and
    `off_core` (n, 64, 64) are the distances of colours from the background's and from these, over
    the distance between the two. `masks` (n, 128, 128) hold everything that stands out, not only
    the largest piece: what is too much on the canvas must count against the clip.
    """

    times: NDArray[np.intp]
    cores: Floats
    masks: Bools
    off_ground: Floats
    off_core: Floats


def _segment(clip: Pixels) -> _Objects:
    frames = clip.astype(np.float32)
    border = np.ones((SIZE, SIZE), bool)
    border[2:-2, 2:-2] = False
    ground = np.median(frames[:, border], axis=1)[:, None, None]
    distance = np.linalg.norm(frames - ground, axis=-1)
    # One pixel in a hundred is less than any shape has.
    peaks = np.quantile(distance.reshape(FRAMES, -1), 0.99, axis=1)
    vivid = distance >= 0.7 * peaks[:, None, None]
    cores = np.stack(
        [np.median(frame[where], axis=0) for frame, where in zip(frames, vivid, strict=True)]
    )
    contrast = np.linalg.norm(cores - ground[:, 0, 0], axis=-1)
    off_ground = distance / np.maximum(contrast, _MIN_CONTRAST)[:, None, None]
    masks = half_way(off_ground)
    covered = masks.mean(axis=(1, 2))
    shown = (contrast >= _MIN_CONTRAST) & (covered > 0) & (covered <= _MAX_COVERED)
    off_core = np.linalg.norm(frames - cores[:, None, None], axis=-1)
    off_core /= np.maximum(contrast, _MIN_CONTRAST)[:, None, None]
    return _Objects(
        np.flatnonzero(shown), cores[shown], masks[shown], off_ground[shown], off_core[shown]
    )


def _chroma_and_hue(rgb: Floats) -> tuple[Floats, Floats]:
    """How far colours (n, 3) are from grey, and in which direction, in degrees.

    Straight from the display's values and not in a perceptual space, so that the even mix of two
    colours, which is what an undecided model paints, lies half-way between their hues.
    """
    red, green, blue = np.asarray(rgb, np.float64).T
    x, y = red - (green + blue) / 2, np.sqrt(0.75) * (green - blue)
    return np.hypot(x, y), np.degrees(np.arctan2(y, x))


_CHROMAS, _HUES = _chroma_and_hue(np.array(list(COLOURS.values())))


def _name_colours(cores: Floats) -> list[str]:
    """The palette's name of each colour (n, 3); `none` where it is dull, or between two."""
    chroma, hue = _chroma_and_hue(cores)
    apart = np.abs((hue[:, None] - _HUES + 180) % 360 - 180)
    first, second = np.sort(apart, axis=1)[:, :2].T
    nearest = apart.argmin(axis=1)
    vivid = chroma >= _MIN_CHROMA_SHARE * _CHROMAS[nearest]
    clear = vivid & (first <= _MAX_HUE_SHARE * (first + second))
    names = list(COLOURS)
    return [names[index] if sure else NONE for index, sure in zip(nearest, clear, strict=True)]


def _name_direction(times: NDArray[np.intp], path: Floats) -> str:
    """Where a steady motion along one axis goes, else `none`."""
    since = times - times.mean()
    velocity = since @ path / (since @ since)
    off = path - path.mean(axis=0) - since[:, None] * velocity
    unsteadiness = np.sqrt(np.mean(np.sum(off**2, axis=1)))
    motion = velocity * (FRAMES - 1)
    axis = int(np.argmax(np.abs(motion)))
    length, drift = abs(motion[axis]), abs(motion[1 - axis])
    if length < _MIN_MOTION or drift > _MAX_DRIFT_SHARE * length:
        return NONE
    if unsteadiness > _MAX_UNSTEADINESS:
        return NONE
    return next(name for name, step in DIRECTIONS.items() if step[axis] == np.sign(motion[axis]))


def _shown_throughout(names: list[str]) -> str:
    return next((name for name in names if names.count(name) >= MIN_FRAMES), NONE)


def judge(clip: Pixels) -> Verdict:
    """Say what a clip, (9, 64, 64, 3) uint8 RGB, shows.

    Raises:
        ValueError: the clip has another shape or type.
    """
    expected = (FRAMES, SIZE, SIZE, 3)
    if clip.shape != expected or clip.dtype != np.uint8:
        raise ValueError(f"a clip is uint8 {expected}, not {clip.dtype} {clip.shape}")
    objects = _segment(clip)
    if len(objects.times) < MIN_FRAMES:
        return _NOTHING
    path = centroids(objects.masks)
    fits = {shape: fit_outline(objects.masks, shape) for shape in SHAPES}
    best = np.argmax([fit.ious for fit in fits.values()], axis=0)
    shape = _shown_throughout([SHAPES[index] for index in best])
    fit = fits.get(shape)
    return Verdict(
        colour=_shown_throughout(_name_colours(objects.cores)),
        shape=shape,
        direction=_name_direction(objects.times, path),
        ious={name: float(each.ious.mean()) for name, each in fits.items()},
        blemish=measure_blemish(fit, objects.off_ground, objects.off_core) if fit else None,
        edge=measure_edge(fit, objects.off_ground) if fit else None,
        path=tuple((float(x), float(y)) for x, y in path),
    )
