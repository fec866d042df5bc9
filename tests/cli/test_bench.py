import json

import pytest

from bench.cases import CASES
from cli import bench
from cli.main import main


def test_help_names_every_case():
    listed = bench.EXAMPLES.split("cases:\n")[1].splitlines()
    assert [tuple(line.split(maxsplit=1)) for line in listed] == [
        (case.name, case.shows) for case in CASES
    ]


def test_one_case_on_nano_as_json_and_in_both_files(tmp_path, capsys):
    assert (
        main(
            ["bench", "nano", "--cases", "served", "--steps", "2", "--out", str(tmp_path), "--json"]
        )
        == 0
    )
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document == json.loads((tmp_path / "bench.json").read_text())
    (variant,) = document["variants"]
    (case,) = variant["cases"]
    assert (variant["variant"], case["case"], case["status"]) == ("nano", "served", "done")
    assert "nano, served: done" in printed.err
    assert "| served | a step with guidance |" in (tmp_path / "bench.md").read_text()


def test_what_does_not_fit_into_the_budget_is_named_in_the_table(tmp_path, capsys):
    arguments = ["--cases", "load", "--budget-seconds", "0.001", "--out", str(tmp_path)]
    assert main(["bench", "nano", *arguments]) == 0
    assert "- load: skipped, it would take about 0 s and 0 s are left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mega"], "There is no variant named 'mega'."),
        (["nano", "--cases", "flight"], "There is no case named 'flight'."),
        (["nano", "--steps", "1"], "--steps is 1."),
    ],
)
def test_wrong_usage_is_told_before_anything_runs(arguments, said, capsys, tmp_path):
    assert main(["bench", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
