import json
from pathlib import Path

from cli.generated_table import with_table
from cli.main import main
from cli.variants import table
from weights.variants import VARIANTS

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_table_has_a_row_for_each(capsys):
    assert main(["variants"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(VARIANTS)
    assert "| 720×480 | 9, 17, … 49; default 49 |" in rows[0]
    assert "768 by 768, 784, … 1360, wide or upright; default 1360×768" in rows[4]


def test_json_has_every_number(capsys):
    assert main(["variants", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert (first["name"], first["num_layers"]) == ("cogvideox-2b", 30)
    assert first["legal_frames"] == [9, 17, 25, 33, 41, 49]
    assert first["legal_sizes"] == [[720, 480]]


def test_the_readme_shows_todays_table():
    text = README.read_text(encoding="utf-8")
    assert with_table(text, "variants", table()) == text, "run `make docs`"
