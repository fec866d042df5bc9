"""The tables in our guides are those that the code makes today."""

from itertools import product

import pytest

from cli.generated_table import with_table
from cli.runners import ROOT, RUNNERS
from cli.schema import guide_table, input_table
from weights.errors import UserError


@pytest.mark.parametrize(
    ("endpoint", "guide"),
    [*product(RUNNERS, ["README.md", "docs/api.md"]), ("train", "docs/training.md")],
)
def test_the_guides_show_todays_inputs(endpoint, guide):
    text = (ROOT / guide).read_text(encoding="utf-8")
    table = guide_table(endpoint)
    assert with_table(text, f"inputs of {endpoint}", table) == text, "run `make docs`"


def test_the_second_table_has_only_what_differs():
    assert input_table("i2v").count("\n") > guide_table("i2v").count("\n")
    assert "| `image` |" in guide_table("i2v")
    assert "| `seed` |" not in guide_table("i2v")


def test_only_what_is_between_the_markers_changes():
    text = "a\n<!-- t: made by `make docs` -->\nold\n<!-- end of t -->\nb\n"
    assert with_table(text, "t", "new") == text.replace("old", "new")


def test_a_text_without_the_place_is_refused():
    with pytest.raises(UserError, match="no place for the table of t"):
        with_table("# Title", "t", "new")
