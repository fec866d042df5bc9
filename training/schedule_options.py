"""The options of learning-rate schedules: numbers that make sense, or an error that names them."""

import math
import re
from collections.abc import Collection, Mapping, Sequence

from training.sgm_schedules import Cycle
from weights.errors import UserError

Option = float | str | Sequence[float]
Options = Mapping[str, Option]

# What a cycle's numbers are called in sgm's schedules of one cycle and of many.
ONE_CYCLE = {
    "length": "max_decay_steps",
    "start": "lr_start",
    "highest": "lr_max",
    "lowest": "lr_min",
}
EACH_CYCLE = {
    "length": "cycle_lengths",
    "warm_up": "warm_up_steps",
    "start": "f_start",
    "highest": "f_max",
    "lowest": "f_min",
}

_NUMBER = r"[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?"
_STEP_RULES = re.compile(rf"({_NUMBER}:[0-9]+,)*{_NUMBER}")


def check_names(schedule: str, given: Collection[str], known: Collection[str]) -> None:
    """Nothing, if all options are the schedule's.

    Raises:
        UserError: one is not.
    """
    for name in given:
        if name not in known:
            raise UserError(
                f"The learning-rate schedule {schedule} has no option {name!r}.",
                f"Its options are {', '.join(known)}." if known else "It takes no options.",
                "Correct the name, or leave it out.",
            )


def whole_number(name: str, value: object, *, at_least: int) -> int:
    """`value` as an integer.

    Raises:
        UserError: it is none, or below `at_least`.
    """
    number = _number(value)
    if number is None or number < at_least or number % 1:
        raise _refuse(name, value, f"A whole number of at least {at_least} is expected.")
    return int(number)


def multiple(name: str, value: object, *, above_zero: bool = False) -> float:
    """`value` as a factor that is finite and not negative.

    Raises:
        UserError: it is no such factor, or 0 where it must be `above_zero`.
    """
    number = _number(value)
    if number is None or number < 0 or (above_zero and number == 0):
        least = "above 0" if above_zero else "of at least 0"
        raise _refuse(name, value, f"A finite number {least} is expected.")
    return float(number)


def step_rules(value: object) -> str:
    """The rules of diffusers' piecewise_constant, as it reads them.

    Raises:
        UserError: there are none, or they don't follow the pattern.
    """
    if isinstance(value, str) and _STEP_RULES.fullmatch(value):
        return value
    raise _refuse(
        "step_rules",
        value,
        "Multiples and the steps they end before, then the last multiple, are expected, "
        "like 1:10,0.1:20,0.01.",
    )


def read_cycles(
    names: Mapping[str, str], *, steps: int, warmup: int, options: Options
) -> tuple[Cycle, ...]:
    """The cycles that `options` describe; `names` is ONE_CYCLE or EACH_CYCLE.

    Raises:
        UserError: numbers make no sense, or lists do not have a number for every cycle.
    """
    defaults: dict[str, Option] = {
        "length": steps,
        "warm_up": warmup,
        "start": 0.0,
        "highest": 1.0,
        "lowest": 0.0,
    }
    if warmup and "warm_up_steps" in options:
        raise UserError(
            f"Both warmup ({warmup}) and warm_up_steps ({options['warm_up_steps']}) are given.",
            "They say the same; warm_up_steps for every cycle by itself.",
            "Give one of them.",
        )
    shown = {field: names.get(field, "warmup") for field in defaults}
    columns = {
        field: _column(options.get(shown[field], default)) for field, default in defaults.items()
    }
    count = _cycle_count(
        {shown[field]: column for field, column in columns.items()}, names, options
    )
    return tuple(
        _cycle({field: column[n % len(column)] for field, column in columns.items()}, shown)
        for n in range(count)
    )


def _cycle_count(
    columns: Mapping[str, Sequence[object]], names: Mapping[str, str], options: Options
) -> int:
    count = max(map(len, columns.values()))
    if names is ONE_CYCLE:
        count = 1
    for name, column in columns.items():
        if len(column) not in {1, count}:
            expected = f"One number for each of the {count} cycles, or one for all, is expected."
            raise _refuse(name, list(column), expected if count > 1 else "A number is expected.")
    if count > 1 and names["length"] not in options:
        raise UserError(
            f"There are numbers for {count} cycles, and none that say how long these are.",
            "cycle_lengths has the steps of every cycle.",
            "Give cycle_lengths too.",
        )
    return count


def _cycle(values: Mapping[str, object], names: Mapping[str, str]) -> Cycle:
    cycle = Cycle(
        length=whole_number(names["length"], values["length"], at_least=1),
        warm_up=whole_number(names["warm_up"], values["warm_up"], at_least=0),
        start=multiple(names["start"], values["start"]),
        highest=multiple(names["highest"], values["highest"], above_zero=True),
        lowest=multiple(names["lowest"], values["lowest"]),
    )
    if cycle.warm_up >= cycle.length:
        expected = f"Fewer steps than the {cycle.length} of {names['length']} are expected."
        raise _refuse(names["warm_up"], cycle.warm_up, expected)
    if cycle.lowest > cycle.highest:
        expected = f"No more than {names['highest']}, {cycle.highest}, is expected."
        raise _refuse(names["lowest"], cycle.lowest, expected)
    return cycle


def _column(option: object) -> Sequence[object]:
    if isinstance(option, Sequence) and not isinstance(option, str):
        return option
    return (option,)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < math.inf else None


def _refuse(name: str, value: object, expected: str) -> UserError:
    return UserError(
        f"The learning-rate schedule was given {name} = {value!r}.", expected, "Correct it."
    )
