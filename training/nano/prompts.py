"""The words of nano: prompts for a scene, their paraphrases, and what training leaves out.

Every word is one token, so that a prompt of at most 14 words and the end token fit the 16 tokens
that nano's T5 reads.
"""

import numpy as np

from training.nano.scenes import COLOURS, DIRECTIONS, SHAPES, Scene, random_scene

Combination = tuple[str, str, str]

_CANONICAL = "a {colour} {shape} moving {direction}"
_PARAPHRASES = (
    "{colour} {shape} moving {direction}",
    "the {colour} {shape} moves {to}",
    "the {shape} is {colour} and moves {direction}",
    "a {colour} {shape} that goes {direction}",
    "moving {direction} a {colour} {shape}",
    "a {colour} {shape} moves {direction} across the screen",
    "a {colour} {shape} on a dark background moving {to}",
    "a {shape} in {colour} moving towards {side} on a dark background",
    "there is a {colour} {shape} and it goes {to}",
    "a video of a {colour} {shape} going {direction}",
    "on a dark screen a {shape} of {colour} goes towards {side}",
    "a clip with one {shape} going {to} and the {shape} is {colour}",
)
# Towards where a direction goes: (to, side).
_TOWARDS = {
    "left": ("to the left", "the left side"),
    "right": ("to the right", "the right side"),
    "up": ("to the top", "the top"),
    "down": ("to the bottom", "the bottom"),
}
_DIRECTION_OF_WORD = {**{name: name for name in DIRECTIONS}, "top": "up", "bottom": "down"}

# Words that have a token of their own and that training never uses: a fine-tuning can teach them.
RESERVED = (
    *("zigzag", "diagonal", "circling", "bouncing", "spinning", "wave"),
    *("growing", "shrinking", "blinking", "fading", "turning", "still"),
    *("fast", "slow", "big", "small", "two", "three"),
    *("star", "hexagon", "ring", "white", "orange", "pink", "purple"),
)

# Never seen together in training: two or more of every shape, one or two of every colour, two of
# every direction, and no pair of words twice, so that each pair is seen with other words.
HELD_OUT: frozenset[Combination] = frozenset(
    {
        ("red", "circle", "up"),
        ("red", "triangle", "down"),
        ("green", "square", "left"),
        ("blue", "triangle", "right"),
        ("blue", "square", "down"),
        ("yellow", "circle", "right"),
        ("magenta", "square", "up"),
        ("cyan", "triangle", "left"),
    }
)
COMBINATIONS: tuple[Combination, ...] = tuple(
    (colour, shape, direction) for colour in COLOURS for shape in SHAPES for direction in DIRECTIONS
)
_TRAINING = tuple(combination for combination in COMBINATIONS if combination not in HELD_OUT)


def _filled(template: str, combination: Combination) -> str:
    colour, shape, direction = combination
    to, side = _TOWARDS[direction]
    return template.format(colour=colour, shape=shape, direction=direction, to=to, side=side)


def combination_of(scene: Scene) -> Combination:
    return scene.colour, scene.shape, scene.direction


def prompt_of(scene: Scene) -> str:
    """The canonical prompt, like `a red circle moving left`."""
    return _filled(_CANONICAL, combination_of(scene))


def paraphrases(combination: Combination) -> list[str]:
    """Every other way in which training says it, at most 14 words each."""
    return [_filled(template, combination) for template in _PARAPHRASES]


def paraphrase(scene: Scene, rng: np.random.Generator) -> str:
    """One of the other ways to say it, drawn evenly."""
    return _filled(_PARAPHRASES[rng.integers(len(_PARAPHRASES))], combination_of(scene))


def training_scene(rng: np.random.Generator, *, independent_start: bool = False) -> Scene:
    """Draw a scene as `random_scene` does, but never a combination that is held out."""
    colour, shape, direction = _TRAINING[rng.integers(len(_TRAINING))]
    return random_scene(
        rng,
        colour=colour,
        shape=shape,
        direction=direction,
        independent_start=independent_start,
    )


def parse_prompt(prompt: str) -> Combination:
    """What a prompt asks for.

    Raises:
        ValueError: the prompt does not name exactly one colour, one shape and one direction.
    """
    words = prompt.lower().split()
    colours = {word for word in words if word in COLOURS}
    shapes = {word for word in words if word in SHAPES}
    directions = {_DIRECTION_OF_WORD[word] for word in words if word in _DIRECTION_OF_WORD}
    if not len(colours) == len(shapes) == len(directions) == 1:
        raise ValueError(f"{prompt!r} does not name one colour, one shape and one direction")
    return colours.pop(), shapes.pop(), directions.pop()


def _trained_words() -> list[str]:
    prompts = (_filled(t, c) for t in (_CANONICAL, *_PARAPHRASES) for c in COMBINATIONS)
    return sorted({word for prompt in prompts for word in prompt.split()})


# The closed vocabulary. The order is fixed: a word's place is its token.
WORDS: tuple[str, ...] = (*_trained_words(), *RESERVED)
