"""The tables in our guides are those that the code makes today."""

import pytest

from cli.generated_table import with_table
from cli.openapi_schema import openapi_document
from cli.runners import ROOT, RUNNERS
from cli.schema import input_table
from weights.errors import UserError

GUIDE = ROOT / "docs" / "api.md"


@pytest.mark.parametrize("task", RUNNERS)
def test_the_guide_shows_todays_inputs(task):
    text = GUIDE.read_text(encoding="utf-8")
    table = input_table(openapi_document(RUNNERS[task]))
    assert with_table(text, f"inputs of {task}", table) == text, "run `make docs`"


def test_only_what_is_between_the_markers_changes():
    text = "a\n<!-- t: made by `make docs` -->\nold\n<!-- end of t -->\nb\n"
    assert with_table(text, "t", "new") == text.replace("old", "new")


def test_a_text_without_the_place_is_refused():
    with pytest.raises(UserError, match="no place for the table of t"):
        with_table("# Title", "t", "new")
