"""What a reader and a program get to see of figures, and of those that are missing."""

import json

import pytest

from bench.figures import Figure, Outcome
from bench.report import Report, VariantReport, markdown, shown


@pytest.fixture
def report():
    step = Figure(name="a step", value=1.234, unit="s")
    request = Figure(name="50 steps", value=64.5, unit="s", origin="computed", target=60)
    peak = Figure(name="peak", value=20.9e9, unit="bytes", predicted=19e9)
    return Report(
        date="2026-11-23",
        machine={"device": "a card", "torch": "2.11.0"},
        variants=[
            VariantReport(
                variant="cogvideox-5b",
                dtype="bfloat16",
                request="49 frames of 720×480",
                outcomes=[
                    Outcome(case="quality", status="done", seconds=9, figures=(step, request)),
                    Outcome(
                        case="resident",
                        status="out of memory",
                        seconds=2,
                        figures=(peak,),
                        reason="tried to allocate 60 GB",
                    ),
                    Outcome(case="int8", status="skipped", seconds=0, reason="3 s are left"),
                ],
            )
        ],
    )


def test_the_table_holds_figures_against_targets_and_predictions(report):
    text = markdown(report)
    assert "| quality | a step | 1.23 s |  |" in text
    assert "| quality | 50 steps (computed) | 64.5 s | target ≤ 60 s: missed |" in text
    assert "| resident | peak | 20.9 GB | predicted 19.0 GB: +10.0% |" in text


def test_the_table_says_where_and_when_it_was_measured(report):
    head = markdown(report).splitlines()[0]
    assert head.startswith("2026-11-23. device a card, torch 2.11.0.")


def test_what_has_no_figure_is_named_with_the_reason(report):
    lines = markdown(report).splitlines()
    assert "- resident: out of memory, tried to allocate 60 GB" in lines
    assert "- int8: skipped, 3 s are left" in lines
    assert not any(line.startswith("- quality") for line in lines)


def test_both_files_say_the_same(report, tmp_path):
    as_json, as_markdown = report.write(tmp_path / "new")
    assert as_markdown.read_text() == markdown(report)
    document = json.loads(as_json.read_text())
    (variant,) = document["variants"]
    figures = {f["name"]: f for case in variant["cases"] for f in case["figures"]}
    assert figures["50 steps"]["reaches_target"] is False
    assert figures["a step"]["reaches_target"] is None
    assert figures["peak"]["off_by"] == pytest.approx(0.1)
    assert [case["status"] for case in variant["cases"]] == ["done", "out of memory", "skipped"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.01234, "s", "0.0123 s"),
        (1234.5, "s", "1,234 s"),
        (0.5, "×", "0.5 ×"),
        (1, "yes/no", "yes"),
        (0, "yes/no", "no"),
        (11.1e9, "bytes", "11.1 GB"),
        (3, "", "3"),
    ],
)
def test_figures_are_shown_as_people_read_them(value, unit, text):
    assert shown(value, unit) == text
