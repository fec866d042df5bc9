"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weights.byte_sizes import parse_size, shown_size
from weights.errors import UserError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1234", 1234),
        ("12 B", 12),
        ("100GB", 100 * 10**9),
        ("80GiB", 80 << 30),
        ("1.5 tb", 1_500_000_000_000),
        (" 7kB ", 7000),
        ("0.1GB", 100_000_000),
    ],
)
def test_sizes_are_understood(text, size):
    assert parse_size(text, "THE_LIMIT") == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "100G", "10 GB/s", "١٢", "1.GB", "nan"])
def test_what_is_no_size_is_explained(text):
    with pytest.raises(UserError, match=r"^THE_LIMIT is .*, which is not a size.*like 100GB"):
        parse_size(text, "THE_LIMIT")


@given(st.integers(0, 10**15))
def test_a_shown_size_is_right_to_a_tenth_of_its_unit(count):
    shown = shown_size(count)
    number, unit = shown.split()
    back = int(number) if unit.startswith("byte") else parse_size(shown, "it")
    assert abs(back - count) <= 0.05 * parse_size(
        "1" if unit.startswith("byte") else f"1{unit}", ""
    )
    assert float(number) < 1000 or unit == "TB"
