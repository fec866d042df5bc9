"""What a variant is to reach on a card, where a target was set."""

from predictors.speed import Speed

# Seconds from a prompt to the frames of cogvideox-5b, 49 of 720×480, 50 steps with guidance. People
# publish 90 on an H100, and its 33 PFLOP take about 42 at the rate of large matrix products.
_SECONDS: dict[tuple[str, str], dict[Speed, float]] = {
    ("cogvideox-5b", "H100"): {"quality": 60, "fast": 30},
}


def target_seconds(variant: str, card: str, speed: Speed) -> float | None:
    """The most seconds that a request of 50 steps should take on the card called `card`."""
    for (name, model), seconds in _SECONDS.items():
        if name == variant and model in card:
            return seconds.get(speed)
    return None
