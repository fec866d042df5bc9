"""The report says all in JSON, the most important in text, and refuses what can't be trained on."""

import json
from pathlib import Path

import pytest

from tests.training.dataset.small_datasets import RULES
from training.dataset.clip import Clip, Problem
from training.dataset.report import DatasetReport, report_json, report_lines, require_usable
from weights.errors import UserError


def clips(count, **changes):
    fields = {"prompt": "a red circle", "image": None, "frames": 9} | changes
    return tuple(Clip(path=Path(f"data/videos/{n}.mp4"), **fields) for n in range(count))


def problems(count):
    return tuple(
        Problem(path=Path(f"data/videos/bad{n}.mp4"), found="It is empty.", remedy="Copy it again.")
        for n in range(count)
    )


def report(used=0, left_out=0, notes=0):
    return DatasetReport(used=clips(used), left_out=problems(left_out), notes=problems(notes))


def test_a_good_dataset_passes():
    require_usable(report(used=1, notes=1), skip_bad=False)
    require_usable(report(used=1, left_out=3), skip_bad=True)


def test_bad_clips_are_named_with_what_to_do():
    with pytest.raises(UserError) as caught:
        require_usable(report(used=3, left_out=2), skip_bad=False)
    assert str(caught.value) == (
        "2 of 5 clips can't be used. All are expected to be usable. "
        "Mend these, or leave them out with --skip-bad:\n"
        "  data/videos/bad0.mp4: It is empty. Copy it again.\n"
        "  data/videos/bad1.mp4: It is empty. Copy it again."
    )


def test_of_many_the_first_five_are_named():
    with pytest.raises(UserError) as caught:
        require_usable(report(used=3, left_out=9), skip_bad=False)
    text = str(caught.value)
    assert "bad4.mp4" in text
    assert "bad5.mp4" not in text
    assert text.endswith("\n  and 4 more")


@pytest.mark.parametrize("skip_bad", [False, True])
def test_skipping_does_not_help_where_nothing_is_left(skip_bad):
    with pytest.raises(UserError, match=r"At least one is expected\. Mend these:\n") as caught:
        require_usable(report(left_out=2), skip_bad=skip_bad)
    assert "--skip-bad" not in str(caught.value)
    with pytest.raises(UserError, match="names no clips"):
        require_usable(report(), skip_bad=skip_bad)


def test_the_text_says_what_is_used_left_out_and_noted():
    used = (
        *clips(1),
        *clips(1, prompt="long\n" * 30, image=Path("data/1.png")),
        Clip(path=Path("data/2.png"), prompt="an image", image=None, frames=1),
    )
    whole = DatasetReport(used=used, left_out=problems(1), notes=problems(2))
    lines = report_lines(whole, RULES)
    assert lines == [
        "Used: 2 videos and 1 image, each brought to 64×64; a video to 9 frames at 8 per second "
        "(1.1 s).",
        "  data/videos/0.mp4: a red circle",
        f"  data/videos/0.mp4: {('long ' * 30)[:59]}… (image: data/1.png)",
        "  data/2.png: an image",
        "Left out: 1.",
        "  data/videos/bad0.mp4: It is empty. Copy it again.",
        "Notes: 2.",
        "  data/videos/bad0.mp4: It is empty. Copy it again.",
        "  data/videos/bad1.mp4: It is empty. Copy it again.",
    ]


def test_long_lists_are_cut_but_for_what_is_left_out():
    lines = report_lines(report(used=30, left_out=30, notes=30), RULES)
    assert lines.count("  and 10 more") == 2
    assert sum("bad29" in line for line in lines) == 1
    assert lines[0].startswith("Used: 30 videos, each")


def test_names_that_are_not_utf_8_can_be_printed():
    path = Path("data") / b"caf\xe9.mp4".decode(errors="surrogateescape")
    used = (Clip(path=path, prompt="hi", image=None, frames=9),)
    whole = DatasetReport(used=used, left_out=(), notes=())
    assert "  data/caf\\udce9.mp4: hi" in report_lines(whole, RULES)
    json.dumps(report_json(whole, RULES)).encode()


def test_json_has_all_of_it():
    used = clips(1, image=Path("data/1.png"))
    whole = DatasetReport(used=used, left_out=problems(1), notes=problems(30))
    document = json.loads(json.dumps(report_json(whole, RULES)))
    assert document["rules"] == {
        "fps": 8,
        "frames": 9,
        "width": 64,
        "height": 64,
        "images": False,
        "first_frames": False,
    }
    assert document["used"] == [
        {
            "path": "data/videos/0.mp4",
            "prompt": "a red circle",
            "image": "data/1.png",
            "frames": 9,
        }
    ]
    assert document["left_out"] == [
        {"path": "data/videos/bad0.mp4", "found": "It is empty.", "remedy": "Copy it again."}
    ]
    assert len(document["notes"]) == 30
