"""Settings of a recipe: a YAML file that names fields of a dataclass, and nothing else."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from weights.errors import UserError

_Settings = TypeVar("_Settings")


def _refuse(path: Path, found: str, expected: str) -> UserError:
    return UserError(f"{path} {found}.", expected, "Correct the settings file.")


def _value(path: Path, name: str, wanted: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return _fields(path, wanted, value, f"{name}.")
    if get_origin(wanted) is tuple:
        if not isinstance(value, list):
            raise _refuse(path, f"has {name}: {value!r}", "A list is expected.")
        item = get_args(wanted)[0]
        return tuple(_value(path, f"{name}[{n}]", item, each) for n, each in enumerate(value))
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise _refuse(path, f"has {name}: {value!r}", f"A value of type {wanted.__name__} is due.")
    return value


def _fields(path: Path, kind: type[_Settings], values: Any, prefix: str = "") -> _Settings:
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    expected = f"The settings are {', '.join(names)}."
    if not isinstance(values, dict):
        raise _refuse(path, f"has no settings at {prefix or 'its top'}", expected)
    for name in values:
        if name not in names:
            raise _refuse(path, f"has the unknown setting {prefix}{name}", expected)
    for name in names:
        if name not in values:
            raise _refuse(path, f"does not have the setting {prefix}{name}", expected)
    hints = get_type_hints(kind)
    return kind(**{name: _value(path, prefix + name, hints[name], values[name]) for name in names})


def read_settings(path: Path, kind: type[_Settings]) -> _Settings:
    """Read the dataclass `kind` from a YAML file that has exactly its fields.

    Raises:
        UserError: the file can't be read, or a setting is unknown, missing or of another type.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        # PyYAML lets a bare ValueError out for a date like 2026-02-31.
        raise _refuse(path, f"can't be read ({error})", "A YAML file is expected.") from None
    return _fields(path, kind, values)
