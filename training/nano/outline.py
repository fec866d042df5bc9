"""Ideal masks: where a circle, square or triangle fits an object best, how well and how cleanly.

Masks are binary on a grid of half pixels, (frames, 128, 128): on whole pixels an edge that lies
half-way through them would flip with the slightest noise. Lengths are in whole pixels.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from training.nano.scenes import INRADIUS, SIZE, Floats, gauge

Bools = NDArray[np.bool_]

# Sizes that scenes have, with a margin for blur.
_RADII = np.arange(7.0, 12.5 + 1e-6, 0.125)
# The search for the centre starts at the mask's and ends on a grid of quarters of a pixel.
_STEPS = (1.0, 0.5, 0.25)
_NEIGHBOURS = np.mgrid[-1:2, -1:2].reshape(2, -1).T
_CENTRES = np.arange(SIZE) + 0.5
_FINE_CENTRES = (np.arange(2 * SIZE) + 0.5) / 2
# Farther than this from the outline, in pixels, a difference of this share of the contrast is a
# blemish. Video codecs keep colour at half the resolution: that blur stays below.
_BLEMISHES = ((1.25, 0.4), (2.0, 0.3))
# Length of the outline over the radius.
_LENGTH = {
    "circle": 2 * np.pi,
    "square": 8 * INRADIUS["square"],
    "triangle": 6 * np.sqrt(3) * INRADIUS["triangle"],
}
# Colours in this part of the way from the background to the object make up its edge.
_EDGE = (0.2, 0.8)


@dataclass(frozen=True, slots=True)
class Fit:
    """The best ideal mask of one shape: centres (n, 2) and ious (n,) in n frames, one radius."""

    shape: str
    centres: Floats
    radius: float
    ious: Floats


def _doubled(values: Floats, axis: int) -> Floats:
    """Twice as many values along an axis, interpolated linearly, repeated at the ends."""
    size = values.shape[axis]
    before = values.take(np.maximum(np.arange(size) - 1, 0), axis)
    after = values.take(np.minimum(np.arange(size) + 1, size - 1), axis)
    pairs = np.stack([(before + 3 * values) / 4, (3 * values + after) / 4], axis + 1)
    return pairs.reshape(*values.shape[:axis], 2 * size, *values.shape[axis + 1 :])


def half_way(off_ground: Floats) -> Bools:
    """Masks (n, 128, 128) of what is nearer to the object's colour than to the background's.

    `off_ground` (n, 64, 64) is the distance of colours from the background's, over that between
    the two.
    """
    return _doubled(_doubled(off_ground, 1), 2) >= 0.5


def centroids(masks: Bools) -> Floats:
    """The centroid (x, y) of each mask, (n, 2)."""
    areas = masks.sum(axis=(1, 2))
    x = masks.sum(axis=1) @ _FINE_CENTRES / areas
    y = masks.sum(axis=2) @ _FINE_CENTRES / areas
    return np.stack([x, y], axis=1)


def _radius_index(shape: str, dx: Floats, dy: Floats) -> NDArray[np.intp]:
    """The first of `_RADII` at which the shape contains a point; their number where none does."""
    steps = np.ceil((gauge(shape, dx, dy) - _RADII[0]) / (_RADII[1] - _RADII[0]) - 1e-6)
    index: NDArray[np.intp] = np.clip(steps, 0, len(_RADII)).astype(np.intp)
    return index


@cache
def _ideal_areas(shape: str) -> NDArray[np.intp]:
    """Size of the ideal mask by the centre's y and x modulo 1/2 in quarters, and by radius."""
    reach = (np.arange(-48, 48) + 0.5) / 2
    areas = np.zeros((2, 2, len(_RADII)), np.intp)
    for row, column in np.ndindex(2, 2):
        index = _radius_index(shape, reach - column / 4, reach[:, None] - row / 4)
        areas[row, column] = np.bincount(index.ravel()).cumsum()[: len(_RADII)]
    return areas


def _common_areas(
    frame: NDArray[np.intp], x: Floats, y: Floats, shape: str, centres: Floats
) -> NDArray[np.intp]:
    """Points that masks share with ideal masks at centres (n, c, 2) of all radii, (n, c, radii).

    The masks are the points (x, y) of frames. Each says from which radius on it is covered.
    """
    n, candidates, _ = centres.shape
    first = _radius_index(shape, x - centres[frame, :, 0], y - centres[frame, :, 1])
    bins = len(_RADII) + 1
    place = (frame[:, None] * candidates + np.arange(candidates)) * bins + first
    counts = np.bincount(place.ravel(), minlength=n * candidates * bins)
    return counts.reshape(n, candidates, bins).cumsum(axis=-1)[..., :-1]


def fit_outline(masks: Bools, shape: str) -> Fit:
    """Find the centres, and the one radius for all frames, of the highest mean IoU.

    `masks` (n, 128, 128) are none of them empty.
    """
    frame, row, column = np.nonzero(masks)
    x, y = _FINE_CENTRES[column, None], _FINE_CENTRES[row, None]
    areas = np.bincount(frame)[:, None, None]
    every = np.arange(len(masks))
    centres = np.rint(centroids(masks) * 4) / 4
    for step in _STEPS:
        candidates = centres[:, None] + step * _NEIGHBOURS
        common = _common_areas(frame, x, y, shape, candidates)
        quarter_x, quarter_y = np.moveaxis(np.rint(candidates * 4).astype(np.intp) % 2, -1, 0)
        curves = common / (areas + _ideal_areas(shape)[quarter_y, quarter_x] - common)
        best = curves.max(axis=2).argmax(axis=1)
        centres, curve = candidates[every, best], curves[every, best]
    radius = curve.mean(axis=0).argmax()
    return Fit(shape, centres, float(_RADII[radius]), curve[:, radius])


def measure_blemish(fit: Fit, off_ground: Floats, off_core: Floats) -> float:
    """The area that is wrong away from the outline over the shape's area, mean of the frames.

    `off_ground` and `off_core` (n, 64, 64) are the distances of the pixels' colours from those of
    background and object, over the distance between these two.
    """
    dx = _CENTRES[None, None, :] - fit.centres[:, 0, None, None]
    dy = _CENTRES[None, :, None] - fit.centres[:, 1, None, None]
    outside = INRADIUS[fit.shape] * (gauge(fit.shape, dx, dy) - fit.radius)
    wrong = np.zeros(outside.shape, bool)
    for distance, level in _BLEMISHES:
        wrong |= (outside > distance) & (off_ground > level)
        wrong |= (outside < -distance) & (off_core > level)
    return float(np.mean(wrong.sum(axis=(1, 2)) / (outside <= 0).sum(axis=(1, 2))))


def measure_edge(fit: Fit, off_ground: Floats) -> float:
    """The width of the edge in pixels, in the frame where it is widest.

    It is the area of the colours between background and object over the length of the outline.
    """
    between = (off_ground > _EDGE[0]) & (off_ground < _EDGE[1])
    return float(between.sum(axis=(1, 2)).max() / (_LENGTH[fit.shape] * fit.radius))
