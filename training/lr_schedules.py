"""Learning rates by step, as multiples of a base learning rate.

`warmup_cosine` is that of nano's recipes. A fine-tuning takes its schedule by name: those with
`sgm-` are SAT's (training/sgm_schedules.py), all others are what diffusers' `get_scheduler` offers.
"""

import math

from training.schedule_options import (
    EACH_CYCLE,
    ONE_CYCLE,
    Options,
    check_names,
    multiple,
    read_cycles,
    step_rules,
    whole_number,
)
from training.sgm_schedules import Multiplier, cosine_fall, cyclic, linear_fall
from weights.errors import UserError

_OPTIONS: dict[str, tuple[str, ...]] = {
    "constant": (),
    "constant_with_warmup": (),
    "linear": (),
    "cosine": (),
    "cosine_with_restarts": ("num_cycles",),
    "polynomial": ("power",),
    "piecewise_constant": ("step_rules",),
    "sgm-warmup-cosine": tuple(ONE_CYCLE.values()),
    "sgm-cyclic-cosine": tuple(EACH_CYCLE.values()),
    "sgm-linear": tuple(EACH_CYCLE.values()),
}
_WITHOUT_WARMUP = ("constant", "piecewise_constant")

SCHEDULES: tuple[str, ...] = tuple(_OPTIONS)
"""The names that `schedule_named` knows."""


def warmup_cosine(step: int, *, warmup: int, steps: int, floor: float = 0.0) -> float:
    """Rises linearly over `warmup` steps, then falls along half a cosine to `floor` at `steps`.

    The cosine is that of Loshchilov & Hutter 2017, "SGDR", without restarts.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def schedule_named(
    name: str, *, steps: int, warmup: int, options: Options | None = None
) -> Multiplier:
    """The schedule of a training of `steps` steps: the multiplier at each of them, from 0 on.

    Args:
        name: one of SCHEDULES.
        warmup: the steps in which the rate rises; of every cycle, where there are several.
        options: what else a schedule takes, by its published names.
            sgm-warmup-cosine: lr_start (0), lr_max (1), lr_min (0), max_decay_steps (`steps`).
            sgm-cyclic-cosine and sgm-linear: cycle_lengths (`steps`), warm_up_steps (`warmup`),
            f_start (0), f_max (1), f_min (0): a list of a number for each cycle, or one for all.
            cosine_with_restarts: num_cycles (1). polynomial: power (1); its last multiple is 1e-7.
            piecewise_constant: step_rules, a text like "1:10,0.1:20,0.01", which it needs.

    Raises:
        UserError: the name or an option is unknown, or a number makes no sense.
    """
    options = options or {}
    _check(name, steps, warmup)
    check_names(name, options, _OPTIONS[name])
    if name == "sgm-warmup-cosine":
        return cyclic(
            read_cycles(ONE_CYCLE, steps=steps, warmup=warmup, options=options), cosine_fall
        )
    if name in {"sgm-cyclic-cosine", "sgm-linear"}:
        cycles = read_cycles(EACH_CYCLE, steps=steps, warmup=warmup, options=options)
        return cyclic(cycles, linear_fall if name == "sgm-linear" else cosine_fall)
    return _of_diffusers(name, steps, warmup, options)


def _check(name: str, steps: int, warmup: int) -> None:
    if name not in _OPTIONS:
        raise UserError(
            f"There is no learning-rate schedule named {name!r}.",
            f"The schedules are {', '.join(SCHEDULES)}.",
            "Use one of these names.",
        )
    whole_number("steps", steps, at_least=1)
    whole_number("warmup", warmup, at_least=0)
    if warmup and name in _WITHOUT_WARMUP:
        raise UserError(
            f"The learning-rate schedule {name} was given a warm-up of {warmup} steps.",
            "It has none.",
            "Leave the warm-up out, or use constant_with_warmup.",
        )
    if warmup >= steps and not name.startswith("sgm-"):
        raise UserError(
            f"The learning rate is to rise for {warmup} of {steps} steps.",
            "A warm-up shorter than the training is expected.",
            "Warm up for fewer steps, or train for more.",
        )


def _of_diffusers(name: str, steps: int, warmup: int, options: Options) -> Multiplier:
    import torch
    from diffusers.optimization import get_scheduler

    read: dict[str, object] = {}
    if "num_cycles" in options:
        read["num_cycles"] = whole_number("num_cycles", options["num_cycles"], at_least=1)
    if "power" in options:
        read["power"] = multiple("power", options["power"], above_zero=True)
    if name == "piecewise_constant":
        read["step_rules"] = step_rules(options.get("step_rules"))
    # At a learning rate of 1 the rate is the multiplier.
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=steps, **read
    )
    return lambda step: float(scheduler.lr_lambdas[0](step))
