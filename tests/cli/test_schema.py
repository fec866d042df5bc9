"""`cogvideox schema` refuses a signature that Cog's parser can't read."""

from cli.main import main
from cli.runners import ENDPOINTS, RunnerFile

BROKEN = """
from cog import BaseRunner, Input
LIMIT = 3
class Runner(BaseRunner):
    def run(self, x: int = Input(default=1, ge=LIMIT)) -> str: ...
"""


def test_a_broken_signature_exits_2_and_names_line_and_input(tmp_path, monkeypatch, capsys):
    file = tmp_path / "runner.py"
    file.write_text(BROKEN)
    monkeypatch.setitem(ENDPOINTS, "t2v", RunnerFile(file))
    assert main(["schema", "t2v"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert (
        "runner.py:5: x: has ge= that is computed or imported: the limit is dropped" in output.err
    )


def test_the_table_of_training_is_written_where_a_guide_wants_it(tmp_path):
    guide = tmp_path / "training.md"
    start = "<!-- inputs of train: made by `make docs` -->"
    guide.write_text(f"before\n{start}\nold\n<!-- end of inputs of train -->\nafter\n")
    assert main(["schema", "train", "--update", str(guide)]) == 0
    text = guide.read_text()
    assert text.startswith(f"before\n{start}\n| input |")
    assert "| `videos` | A zip" in text
    assert "| file: URL or data URI | required |" in text
    assert "\nold\n" not in text
    assert text.endswith("<!-- end of inputs of train -->\nafter\n")
