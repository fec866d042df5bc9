"""Numbers of requests: within their limits, and numbers at all."""

import pytest

from predictors.number_inputs import number, whole_number
from weights.errors import UserError


@pytest.mark.parametrize("value", [1, 2.5, 4])
def test_a_number_within_the_limits_is_a_float(value):
    assert number("scale", value, 1, 4) == value
    assert isinstance(number("scale", value, 1, 4), float)


@pytest.mark.parametrize("value", [0.9, 4.1, float("nan"), "2", None, True, [2]])
def test_what_is_no_number_within_the_limits_is_refused(value):
    with pytest.raises(UserError, match=r"^scale is .*\. It must lie between 1 and 4\. Use"):
        number("scale", value, 1, 4)


@pytest.mark.parametrize("value", [1, 4, 2.0])
def test_a_whole_number_may_be_written_as_a_float(value):
    assert whole_number("steps", value, 1, 4) == value
    assert isinstance(whole_number("steps", value, 1, 4), int)


def test_without_a_limit_any_higher_number_is_taken():
    assert whole_number("steps", 10**12, 1, None) == 10**12


@pytest.mark.parametrize("value", [0, 5, 1.5, float("nan"), float("inf"), "3", None, False])
def test_what_is_no_whole_number_within_the_limits_is_refused(value):
    with pytest.raises(UserError, match=r"^steps is .*\. It must be a whole number from 1 to 4\."):
        whole_number("steps", value, 1, 4)


def test_a_long_text_is_not_repeated_in_full():
    with pytest.raises(UserError) as caught:
        number("scale", "9" * 1000, 1, 4)
    assert len(str(caught.value)) < 200
