"""Scenes of one moving shape: drawn at random, rendered to pixels.

Positions are in pixels from the top left corner of the canvas, so that pixel (0, 0) has its centre
at (0.5, 0.5); y grows downwards.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weights.variants import VARIANTS

Floats = NDArray[np.floating]
Pixels = NDArray[np.uint8]
Rgb = tuple[int, int, int]

SIZE = VARIANTS["nano"].width
FRAMES = VARIANTS["nano"].default_frames

# Clear of 0 and 255, where a decoder that overshoots would be clipped; hues 48 degrees apart or
# more, in Oklab too.
COLOURS: dict[str, Rgb] = {
    "red": (225, 40, 40),
    "green": (40, 200, 70),
    "blue": (55, 80, 230),
    "yellow": (240, 210, 45),
    "magenta": (215, 50, 205),
    "cyan": (45, 205, 220),
}
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
SHAPES = ("circle", "square", "triangle")

# Distance from the centroid to the nearest edge, over the radius. The square has the circle's
# area; the triangle points up, and with four fifths of that area looks as large.
INRADIUS = {"circle": 1.0, "square": float(np.sqrt(np.pi) / 2), "triangle": 0.7}
# How far a shape reaches from its centroid to the left and right, up, and down, over the radius.
_REACH = {
    "circle": (1.0, 1.0, 1.0),
    "square": (INRADIUS["square"],) * 3,
    "triangle": (float(np.sqrt(3)) * INRADIUS["triangle"], 2 * INRADIUS["triangle"], 0.7),
}

_GREY = (26, 64)
_TINT = 7
_BORDER = 1.0
# Radius in pixels and speed in pixels a frame. With starts that are free of the direction there
# must be room to all four sides.
_RADIUS, _SPEED = (8.0, 11.0), (2.0, 3.0)
_INDEPENDENT_RADIUS, _INDEPENDENT_SPEED = (8.0, 9.5), (1.5, 2.0)

_CENTRES = np.arange(SIZE) + 0.5
_SAMPLES = 8
_OFFSETS = (np.arange(_SAMPLES) + 0.5) / _SAMPLES - 0.5
_OFFSETS_X, _OFFSETS_Y = (grid.ravel() for grid in np.meshgrid(_OFFSETS, _OFFSETS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A clip in words and numbers; `start` is the shape's centroid (x, y) in frame 0."""

    colour: str
    shape: str
    direction: str
    start: tuple[float, float]
    radius: float
    speed: float
    background: Rgb

    @property
    def path(self) -> Floats:
        """The centroid (x, y) in every frame, (frames, 2)."""
        moved = np.arange(FRAMES)[:, None] * self.speed * np.array(DIRECTIONS[self.direction])
        path: Floats = np.array(self.start) + moved
        return path


def gauge(shape: str, dx: Floats, dy: Floats) -> Floats:
    """The radius at which the outline passes through a point (dx, dy) from the centroid."""
    if shape == "circle":
        distance = np.sqrt(dx * dx + dy * dy)
    elif shape == "square":
        distance = np.maximum(np.abs(dx), np.abs(dy))
    else:
        distance = np.maximum(np.sqrt(0.75) * np.abs(dx) - dy / 2, dy)
    radius: Floats = distance / INRADIUS[shape]
    return radius


def coverage(shape: str, path: Floats, radius: float) -> NDArray[np.float32]:
    """What share of each pixel the shape covers, (frames, 64, 64), centred on `path` (frames, 2).

    Only pixels that the outline may touch are sampled, 8 by 8; the sums are of whole numbers, so
    that every machine gets the same bytes.
    """
    dx = _CENTRES[None, None, :] - path[:, 0, None, None]
    dy = _CENTRES[None, :, None] - path[:, 1, None, None]
    at_centre = gauge(shape, dx, dy)
    covered = (at_centre <= radius).astype(np.float32)
    # From its centre to its corner is 0.71 px, over which the gauge changes by this at most.
    near = np.abs(at_centre - radius) < 0.71 / INRADIUS[shape]
    frame, row, column = np.nonzero(near)
    x = dx[frame, 0, column, None] + _OFFSETS_X
    y = dy[frame, row, 0, None] + _OFFSETS_Y
    covered[frame, row, column] = np.mean(gauge(shape, x, y) <= radius, axis=1)
    return covered


def masks(scene: Scene) -> NDArray[np.float32]:
    """What share of each pixel the scene's shape covers, (9, 64, 64), 0 to 1."""
    return coverage(scene.shape, scene.path, scene.radius)


def paint(covered: NDArray[np.float32], colour: Rgb, background: Rgb) -> Pixels:
    """Mix the two colours by coverage, (frames, 64, 64) to (frames, 64, 64, 3) uint8 RGB."""
    ground = np.array(background, np.float32)
    difference = np.array(colour, np.float32) - ground
    return np.rint(covered[..., None] * difference + ground).astype(np.uint8)


def render(scene: Scene) -> Pixels:
    """The clip as antialiased pixels, (9, 64, 64, 3) uint8 RGB."""
    return paint(masks(scene), COLOURS[scene.colour], scene.background)


def _start_ranges(
    shape: str, radius: float, travel: float, directions: Iterable[str]
) -> list[tuple[float, float]]:
    """Ranges of x and y at frame 0 from which the shape stays whole in all of the directions."""
    aside, above, below = (radius * reach for reach in _REACH[shape])
    steps = [DIRECTIONS[direction] for direction in directions]
    ranges = []
    for axis, before, after in ((0, aside, aside), (1, above, below)):
        shifts = [travel * step[axis] for step in steps]
        low = _BORDER + before - min(0.0, *shifts)
        ranges.append((low, SIZE - _BORDER - after - max(0.0, *shifts)))
    return ranges


def random_scene(
    rng: np.random.Generator,
    *,
    colour: str | None = None,
    shape: str | None = None,
    direction: str | None = None,
    independent_start: bool = False,
) -> Scene:
    """Draw a scene whose shape stays whole on the canvas in every frame.

    What is not given is drawn evenly. With `independent_start` the first frame says nothing of the
    direction: it starts where all four directions would stay on the canvas. The generator gives
    the same other values whatever is asked for.
    """
    drawn = [str(rng.choice(names)) for names in (list(COLOURS), SHAPES, list(DIRECTIONS))]
    colour, shape, direction = (
        given or own for given, own in zip((colour, shape, direction), drawn, strict=True)
    )
    radii = _INDEPENDENT_RADIUS if independent_start else _RADIUS
    speeds = _INDEPENDENT_SPEED if independent_start else _SPEED
    radius, speed = float(rng.uniform(*radii)), float(rng.uniform(*speeds))
    grey, tint = rng.integers(*_GREY), rng.integers(-_TINT, _TINT + 1, 3)
    red, green, blue = (int(value) for value in grey + tint)
    allowed = DIRECTIONS if independent_start else (direction,)
    across, along = _start_ranges(shape, radius, speed * (FRAMES - 1), allowed)
    return Scene(
        colour=colour,
        shape=shape,
        direction=direction,
        start=(float(rng.uniform(*across)), float(rng.uniform(*along))),
        radius=radius,
        speed=speed,
        background=(red, green, blue),
    )
