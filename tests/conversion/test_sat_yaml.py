"""SAT's files as entries, and what of them has no part in anything; see test_sat_settings, too."""

import math

import pytest

from conversion.sat_unmapped import Reasons, unmapped_keys
from conversion.sat_yaml import Reading, as_number
from weights.errors import UserError

REASONS = Reasons({"args": "All of it.", "model.net": "The net.", "model.net.deep": "Deep."}, "?")


@pytest.fixture
def reading(tmp_path):
    def read(text):
        (tmp_path / "sat.yaml").write_text(text)
        return Reading([tmp_path / "sat.yaml"])

    return read


@pytest.mark.parametrize(
    ("value", "number"),
    [("1e-8", 1e-8), ("5.", 5), (3, 3), (2.5, 2.5), (10**400, math.inf)]
    + [(value, None) for value in (True, None, "", "1e", "five", [1], "nan")],
)
def test_numbers_are_those_that_sat_reads(value, number):
    assert as_number(value) == number


def test_a_text_is_one_that_says_something(reading):
    found = reading("args: {a: words, b: 3, c: ' '}")
    assert found.take("args.a").text() == "words"
    for name in ("args.b", "args.c"):
        with pytest.raises(UserError, match=r"sat\.yaml has args\..: .*A text is expected"):
            found.take(name).text()


def test_the_longest_beginning_has_the_reason(reading):
    found = reading("model: {net: {deep: {x: 1, y: 2}, other: 3}, far: {z: 1}}\nargs: {n: 1}")
    listed = {each.key: (each.value, each.instead) for each in unmapped_keys(found, REASONS)}
    assert listed == {
        "model.net.deep": ("{x: 1, y: 2}", "Deep."),
        "model.net": ("{other: 3}", "The net."),
        "model.far": ("{z: 1}", "?"),
        "args.n": ("1", "All of it."),
    }


def test_what_is_set_aside_is_listed_alone_with_its_own_reason(reading):
    found = reading("model: {net: {one: 1, two: 2}}")
    found.set_aside(found.peek("model.net.two"), "Something else decides.")
    listed = {each.key: each.instead for each in unmapped_keys(found, REASONS)}
    assert listed == {"model.net": "The net.", "model.net.two": "Something else decides."}
