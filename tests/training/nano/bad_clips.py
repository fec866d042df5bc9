"""Clips that are not right or not clean: what a half-trained or careless denoiser paints.

Each entry of BAD_CLIPS turns a scene into pixels that are not quite what the scene says.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from training.nano.scenes import (
    COLOURS,
    DIRECTIONS,
    FRAMES,
    INRADIUS,
    SHAPES,
    SIZE,
    coverage,
    gauge,
    masks,
    paint,
    render,
)

SAMPLES = 4
POINTS = (np.arange(SIZE * SAMPLES) + 0.5) / SAMPLES
TIMES = np.arange(FRAMES)
COLOUR_WHEEL = ("red", "yellow", "green", "cyan", "blue", "magenta")


def next_colour(scene):
    return COLOURS[COLOUR_WHEEL[(COLOUR_WHEEL.index(scene.colour) + 1) % len(COLOUR_WHEEL)]]


def next_shape(scene):
    return SHAPES[(SHAPES.index(scene.shape) + 1) % len(SHAPES)]


def painted(scene, covered, colour=None):
    colour = colour or COLOURS[scene.colour]
    return paint(np.clip(covered, 0, 1).astype(np.float32), colour, scene.background)


def drawn(scene, inside):
    """Every point with inside(dx, dy) of the centroid is painted, antialiased."""
    blocks = (SIZE, SAMPLES, SIZE, SAMPLES)
    covered = [
        inside(POINTS[None, :] - x, POINTS[:, None] - y).reshape(blocks).mean((1, 3))
        for x, y in scene.path
    ]
    return painted(scene, np.array(covered))


def averaged(scene, variations):
    return painted(scene, np.mean(list(variations), axis=0))


# Outlines.


def horned_square(scene):
    half, horn = scene.radius * INRADIUS["square"], 4 / np.sqrt(2)

    def inside(dx, dy):
        near, far = np.sort(np.abs(np.broadcast_arrays(dx, dy)), axis=0)
        return far <= half + horn * np.clip((near - half / 2) / (half / 2 + horn), 0, 1)

    return drawn(scene, inside)


def spiked_square(scene):
    half, horn = scene.radius * INRADIUS["square"], 4 / np.sqrt(2)

    def inside(dx, dy):
        near, far = np.sort(np.abs(np.broadcast_arrays(dx, dy)), axis=0)
        return (far <= half) | ((far - near <= 2) & (far <= half + horn))

    return drawn(scene, inside)


def lumpy_circle(lobes):
    def clip(scene):
        def inside(dx, dy):
            angle = np.arctan2(dy, dx)
            return np.hypot(dx, dy) <= scene.radius * (1 + 0.2 * np.cos(lobes * angle + 1))

        return drawn(scene, inside)

    return clip


def rounded_square(scene):
    reach = scene.radius * 0.94
    return drawn(scene, lambda dx, dy: dx**4 + dy**4 <= reach**4)


def ellipse(scene):
    return drawn(scene, lambda dx, dy: np.hypot(dx / 1.15, dy * 1.15) <= scene.radius)


def upside_down(scene):
    return drawn(scene, lambda dx, dy: gauge("triangle", dx, -dy) <= scene.radius)


def turned(scene):
    cos, sin = np.cos(np.pi / 9), np.sin(np.pi / 9)
    return drawn(
        scene,
        lambda dx, dy: gauge(scene.shape, cos * dx + sin * dy, cos * dy - sin * dx) <= scene.radius,
    )


def dented(scene):
    hole = coverage("circle", scene.path + scene.radius * np.array([0.7, 0.4]), 3.0)
    return painted(scene, masks(scene) * (1 - hole))


def hollow(share):
    return lambda scene: painted(
        scene, masks(scene) - coverage(scene.shape, scene.path, scene.radius * share)
    )


def pale_inside(scene):
    inner = coverage(scene.shape, scene.path, scene.radius * 0.6)
    return painted(scene, masks(scene) - 0.4 * inner)


def half_size(scene):
    return painted(scene, coverage(scene.shape, scene.path, scene.radius / 2))


def growing(scene):
    sizes = scene.radius * np.linspace(0.8, 1.2, FRAMES)
    frames = [coverage(scene.shape, scene.path[[i]], size) for i, size in enumerate(sizes)]
    return painted(scene, np.concatenate(frames))


def another_shape(scene):
    return render(replace(scene, shape=next_shape(scene)))


def shape_changes(scene):
    clip = render(scene)
    clip[5:] = another_shape(scene)[5:]
    return clip


# Undecided: the average of several clips.


def mean_of_shapes(scene):
    return averaged(scene, (coverage(shape, scene.path, scene.radius) for shape in SHAPES))


def mean_of_speeds(scene):
    speeds = np.linspace(scene.speed - 0.5, scene.speed + 0.5, 7)
    return averaged(scene, (masks(replace(scene, speed=speed)) for speed in speeds))


def mean_of_places(scene):
    offsets = np.random.default_rng(0).normal(0, 3, (24, 2))
    places = (scene.path + offset for offset in offsets)
    return averaged(scene, (coverage(scene.shape, place, scene.radius) for place in places))


def mean_of_directions(scene):
    return averaged(scene, (masks(replace(scene, direction=name)) for name in DIRECTIONS))


def smeared(scene):
    offsets = np.linspace(-4, 4, 9)[:, None] * [1, 0]
    places = (scene.path + offset for offset in offsets)
    return averaged(scene, (coverage(scene.shape, place, scene.radius) for place in places))


def with_a_trail(scene):
    step = np.array(DIRECTIONS[scene.direction])
    trail = [
        (0.7 - 0.1 * k) * coverage(scene.shape, scene.path - 2 * k * step, scene.radius)
        for k in range(1, 7)
    ]
    return painted(scene, np.maximum(masks(scene), np.max(trail, axis=0)))


# Things too many or too few.


def second_place(scene):
    x, y = scene.path.mean(axis=0)
    return scene.path + (np.array([0, -24 if y > SIZE / 2 else 24]) if x else 0)


def two_objects(scene):
    second = coverage(scene.shape, second_place(scene), scene.radius * 0.6)
    return painted(scene, np.maximum(masks(scene), second))


def ghost(scene):
    second = coverage(scene.shape, second_place(scene), scene.radius)
    return painted(scene, np.maximum(masks(scene), 0.35 * second))


def speck(scene):
    clip = render(scene)
    clip[:, 2:5, 2:5] = COLOURS["yellow"]
    return clip


def vanishing(scene):
    covered = masks(scene)
    covered[4:6] = 0
    return painted(scene, covered)


def nothing(scene):
    return painted(scene, 0 * masks(scene))


def all_object(scene):
    return painted(scene, 0 * masks(scene) + 1)


def noise(scene):
    return np.random.default_rng(0).integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)


def textured(scene):
    coarse = np.random.default_rng(0).normal(0, 20, (FRAMES, SIZE // 4, SIZE // 4, 3))
    texture = coarse.repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(render(scene) + texture, 0, 255).astype(np.uint8)


# Colours.


def grey(scene):
    return painted(scene, masks(scene), (150, 150, 150))


def between_colours(scene):
    pair = np.array([COLOURS[scene.colour], next_colour(scene)])
    return painted(scene, masks(scene), tuple(pair.mean(axis=0)))


def washed_out(scene):
    return painted(scene, 0.6 * masks(scene))


def two_coloured(scene):
    clip, other = render(scene), painted(scene, masks(scene), next_colour(scene))
    for frame, (x, _) in enumerate(scene.path):
        clip[frame, :, int(x + 2) :] = other[frame, :, int(x + 2) :]
    return clip


def colour_changes(scene):
    clip = render(scene)
    clip[5:] = painted(scene, masks(scene), next_colour(scene))[5:]
    return clip


# Motions.


def along(path):
    return lambda scene: painted(scene, coverage(scene.shape, path(scene.path), scene.radius))


def at_times(*times):
    return along(lambda path: path[list(times)])


def diagonal(path):
    moved = path - path[0]
    return path[0] + 0.6 * moved + 0.4 * moved[:, ::-1]


def slow(path):
    moved = path - path[0]
    return path[0] + 5 * moved / np.abs(moved).max()


def zigzag(path):
    across = np.abs(np.sign(path[-1] - path[0]))[::-1]
    return path + 2.5 * (-1) ** TIMES[:, None] * across


BAD_CLIPS: dict[str, Callable] = {
    **{f"lumpy circle, {lobes} lobes": lumpy_circle(lobes) for lobes in (2, 3, 4, 5, 6, 8)},
    **{f"hollow by {share}": hollow(share) for share in (0.35, 0.5, 0.7)},
    "still": at_times(*[0] * FRAMES),
    "backwards": at_times(8, 7, 6, 5, 4, 3, 2, 1, 0),
    "moving only between latent frames": at_times(0, 4, 4, 4, 4, 8, 8, 8, 8),
    "one jump": at_times(0, 0, 0, 0, 8, 8, 8, 8, 8),
    "there and back": at_times(0, 2, 4, 6, 8, 6, 4, 2, 0),
    "stopping half-way": at_times(0, 1, 2, 3, 4, 4, 4, 4, 4),
    "frames out of order": at_times(1, 0, 3, 2, 5, 4, 7, 6, 8),
    "hardly moving": along(slow),
    "diagonal": along(diagonal),
    "zigzag": along(zigzag),
    **{
        clip.__name__.replace("_", " "): clip
        for clip in (
            *(horned_square, spiked_square, rounded_square, ellipse, upside_down, turned),
            *(dented, pale_inside, half_size, growing, another_shape, shape_changes),
            *(mean_of_shapes, mean_of_speeds, mean_of_places, mean_of_directions, smeared),
            *(with_a_trail, two_objects, ghost, speck, vanishing, nothing, all_object, noise),
            *(textured, grey, between_colours, washed_out, two_coloured, colour_changes),
        )
    },
}
# Faults that leave a clip right, and that only the stricter rule refuses.
RIGHT_BUT_NOT_CLEAN = frozenset(
    {
        *("hollow by 0.35", "dented", "pale inside", "textured", "two coloured", "speck", "ghost"),
        *("with a trail", "smeared", "mean of speeds", "mean of places"),
    }
)
# The same for some shapes and sizes.
SOMETIMES_RIGHT = frozenset({"horned square", "rounded square", "mean of shapes", "shape changes"})
# Deformations of one shape only.
SHAPES_OF = {
    "horned square": ("square",),
    "spiked square": ("square",),
    "rounded square": ("circle", "square"),
    "ellipse": ("circle",),
    "upside down": ("triangle",),
    "turned": ("square", "triangle"),
    **{name: ("circle",) for name in BAD_CLIPS if name.startswith("lumpy")},
}
