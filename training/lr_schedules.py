"""Learning rates by step, as multiples of the highest."""

import math


def warmup_cosine(step: int, *, warmup: int, steps: int, floor: float = 0.0) -> float:
    """Rises linearly over `warmup` steps, then falls along half a cosine to `floor` at `steps`.

    The cosine is that of Loshchilov & Hutter 2017, "SGDR", without restarts.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
