"""A settings file has the dataclass's fields, of their types, and nothing else."""

import dataclasses
from dataclasses import dataclass

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.settings import read_settings
from weights.errors import UserError

# Hypothesis runs a test many times with one folder.
ONE_FOLDER = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True, slots=True)
class Stage:
    pixels: int
    noise: float


@dataclass(frozen=True, slots=True)
class Recipe:
    seed: int
    rate: float
    name: str
    resumes: bool
    focus: Stage
    stages: tuple[Stage, ...]
    sizes: tuple[float, ...]


GOOD = """
seed: 1
rate: 0.5
name: nano
resumes: true
focus: {pixels: 3, noise: 0.1}
stages:
  - {pixels: 32, noise: 0.0}
  - {pixels: 64, noise: 1}
sizes: [1, 2.5]
"""
NUMBERS = st.floats(allow_nan=False)
STAGES = st.builds(Stage, st.integers(), NUMBERS)
RECIPES = st.builds(
    Recipe,
    st.integers(),
    NUMBERS,
    st.text(),
    st.booleans(),
    STAGES,
    st.lists(STAGES, max_size=3).map(tuple),
    st.lists(NUMBERS, max_size=3).map(tuple),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "settings.yaml"


def read(path, text):
    path.write_text(text, encoding="utf-8")
    return read_settings(path, Recipe)


def with_setting(name, value):
    """GOOD with another value; `name` is a path, like stages.1.noise."""
    values = yaml.safe_load(GOOD)
    *outer, last = name.split(".")
    place = values
    for each in outer:
        place = place[int(each) if each.isdigit() else each]
    place[last] = value
    return yaml.safe_dump(values)


def without_setting(name):
    lines = [line for line in GOOD.splitlines() if not line.startswith(f"{name}:")]
    if name == "stages":
        lines = [line for line in lines if not line.startswith("  -")]
    return "\n".join(lines)


def test_a_file_becomes_the_dataclass(path):
    assert read(path, GOOD) == Recipe(
        1, 0.5, "nano", True, Stage(3, 0.1), (Stage(32, 0.0), Stage(64, 1.0)), (1.0, 2.5)
    )


def test_a_whole_number_is_a_float_where_one_is_due(path):
    found = read(path, GOOD)
    assert [type(each) for each in (found.stages[1].noise, found.sizes[0])] == [float, float]


@ONE_FOLDER
@given(RECIPES)
def test_any_settings_can_be_written_down_and_read(path, recipe):
    values = dataclasses.asdict(recipe)
    values |= {"stages": list(values["stages"]), "sizes": list(values["sizes"])}
    assert read(path, yaml.safe_dump(values)) == recipe


def test_the_order_is_free(path):
    values = dict(reversed(yaml.safe_load(GOOD).items()))
    assert read(path, yaml.safe_dump(values, sort_keys=False)) == read(path, GOOD)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("sede", "sede"),
        ("focus.pixel", "focus.pixel"),
        ("stages.1.frames", "stages[1].frames"),
    ],
)
def test_an_unknown_setting_is_named(path, name, shown):
    with pytest.raises(UserError) as caught:
        read(path, with_setting(name, 1))
    assert caught.value.given == f"{path} has the unknown setting {shown}."
    assert caught.value.expected.startswith("The settings are ")


@pytest.mark.parametrize("key", ["1", "null", "true", "2026-01-01"])
def test_a_name_that_is_no_text_is_unknown(path, key):
    with pytest.raises(UserError, match="has the unknown setting"):
        read(path, f"{GOOD}{key}: 1\n")


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Recipe)])
def test_a_missing_setting_is_named(path, name):
    with pytest.raises(UserError) as caught:
        read(path, without_setting(name))
    assert caught.value.given == f"{path} does not have the setting {name}."


def test_a_missing_setting_inside_another_is_named_in_full(path):
    with pytest.raises(UserError, match=r"does not have the setting focus\.noise\."):
        read(path, with_setting("focus", {"pixels": 1}))
    with pytest.raises(UserError, match=r"does not have the setting stages\[1\]\.pixels\."):
        read(path, with_setting("stages", [{"pixels": 1, "noise": 1}, {"noise": 1}]))


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("seed", 1.0, "seed: 1.0"),
        ("seed", True, "seed: True"),
        ("seed", "1", "seed: '1'"),
        ("seed", None, "seed: None"),
        ("seed", [1], "seed: [1]"),
        ("rate", True, "rate: True"),
        ("rate", "1e-4", "rate: '1e-4'"),
        ("name", 1, "name: 1"),
        ("resumes", 1, "resumes: 1"),
        ("resumes", "true", "resumes: 'true'"),
        ("stages", {"pixels": 1}, "stages: {'pixels': 1}"),
        ("stages", "ab", "stages: 'ab'"),
        ("stages", None, "stages: None"),
        ("sizes", [1, "2"], "sizes[1]: '2'"),
        ("stages.1.pixels", 0.5, "stages[1].pixels: 0.5"),
        ("focus.noise", "0.1", "focus.noise: '0.1'"),
    ],
)
def test_a_value_of_another_type_is_shown(path, name, value, shown):
    with pytest.raises(UserError) as caught:
        read(path, with_setting(name, value))
    assert caught.value.given == f"{path} has {shown}."


def test_yaml_takes_a_power_of_ten_without_a_point_for_text(path):
    with pytest.raises(UserError, match="rate: '1e-4'"):
        read(path, GOOD.replace("rate: 0.5", "rate: 1e-4"))
    assert read(path, GOOD.replace("rate: 0.5", "rate: 1.0e-4")).rate == 0.0001


@pytest.mark.parametrize("value", [None, 3, "ab", [1, 2], [{"pixels": 1, "noise": 1}]])
def test_what_is_no_mapping_is_refused_at_its_place(path, value):
    with pytest.raises(UserError, match="has no settings at its top"):
        read(path, yaml.safe_dump(value))
    with pytest.raises(UserError, match=r"has no settings at focus\."):
        read(path, with_setting("focus", value))
    with pytest.raises(UserError, match=r"has no settings at stages\[0\]\."):
        read(path, with_setting("stages", [value]))


def test_an_empty_file_is_refused(path):
    with pytest.raises(UserError, match="has no settings at its top"):
        read(path, "")


@pytest.mark.parametrize(
    "text",
    [
        "seed: [1",
        "seed: 1\n  rate: 2",
        "\tseed: 1",
        "seed: 1\n---\nseed: 2",
        "seed: !!python/object/apply:os.getcwd []",
        "seed: \0",
        "? [seed]\n: 1",
        "seed: 2026-02-31",
        "seed: 0x_",
    ],
    ids=["open", "indented", "tab", "two", "code", "nul", "key", "date", "number"],
)
def test_what_is_no_yaml_is_refused(path, text):
    with pytest.raises(UserError, match="can't be read"):
        read(path, text)


def test_what_is_no_text_is_refused(path):
    path.write_bytes(b"seed: \xff")
    with pytest.raises(UserError, match="can't be read"):
        read_settings(path, Recipe)


def test_no_file_or_a_folder_is_refused(path):
    with pytest.raises(UserError, match="can't be read"):
        read_settings(path, Recipe)
    path.mkdir()
    with pytest.raises(UserError, match="can't be read"):
        read_settings(path, Recipe)


@ONE_FOLDER
@given(st.text("sed: 10x_-[]{}\n.,'#&*|>?"))
def test_any_other_text_is_refused_and_never_breaks_it(path, text):
    with pytest.raises(UserError, match="settings file"):
        read(path, text)
