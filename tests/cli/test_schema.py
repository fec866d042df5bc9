"""`cogvideox schema` refuses a signature that Cog's parser can't read."""

from cli.main import main
from cli.runners import RUNNERS, RunnerFile

BROKEN = """
from cog import BaseRunner, Input
LIMIT = 3
class Runner(BaseRunner):
    def run(self, x: int = Input(default=1, ge=LIMIT)) -> str: ...
"""


def test_a_broken_signature_exits_2_and_names_line_and_input(tmp_path, monkeypatch, capsys):
    file = tmp_path / "runner.py"
    file.write_text(BROKEN)
    monkeypatch.setitem(RUNNERS, "t2v", RunnerFile(file))
    assert main(["schema", "t2v"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert (
        "runner.py:5: x: has ge= that is computed or imported: the limit is dropped" in output.err
    )
