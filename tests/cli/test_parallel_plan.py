"""`cogvideox plan --parallel N`: how N devices can share a video."""

import json

import pytest

from cli.main import main
from weights.variants import VARIANTS


def test_layouts_of_a_variant(capsys):
    assert main(["plan", "cogvideox-5b", "--parallel", "4"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| cog")]
    assert rows == [
        "| cogvideox-5b | 49 × 720×480 | 226 + 17550 | 2 × 2 | 113 + 8775 | 24 | 1 |",
        "| cogvideox-5b | 49 × 720×480 | 226 + 17550 | 4 × 1 | ≤ 57 + 4388 | 12 | 2 |",
    ]


def test_all_variants_are_listed_with_those_that_can_not(capsys):
    assert main(["plan", "--parallel", "8"]) == 0
    out = capsys.readouterr().out
    assert all(f"| {name} |" in out for name in VARIANTS)
    assert "| cogvideox-2b | 49 × 720×480 | 226 + 17550 | none; legal: 1, 2, 3, 4, 5, 6, 10" in out


def test_json_has_every_number(capsys):
    options = ["cogvideox1.5-5b-i2v", "--frames", "17", "--parallel", "2", "--json"]
    assert main(["plan", *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["parallel"] == 2
    (plan,) = document["plans"]
    assert (plan["text_tokens"], plan["video_tokens"]) == (224, 3 * 48 * 85)
    assert plan["video"] == {"frames": 17, "width": 1360, "height": 768}
    assert plan["legal_devices"][:5] == [1, 2, 3, 4, 6]
    assert plan["layouts"] == [
        {
            "ulysses": ulysses,
            "cfg": cfg,
            "share": {
                "heads": 48 // ulysses,
                "text_tokens": 224 // ulysses,
                "video_tokens": 12240 // ulysses,
                "passes": 2 // cfg,
                "uneven": False,
            },
        }
        for ulysses, cfg in ((1, 2), (2, 1))
    ]


def test_a_folder_can_be_named(capsys, tiny_folder):
    assert main(["plan", "--weights", str(tiny_folder), "--parallel", "4"]) == 0
    assert "| nano | 9 × 64×64 | 16 + 48 | 2 × 2 | 8 + 24 | 1 | 1 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["nano", "--parallel", "3"],
            "nano can't make a video on 3 devices.",
        ),
        (["nano", "--parallel", "3"], "Use 2 or 4."),
        (["--parallel", "0"], "can't make a video on 0 devices"),
        (["nano", "--parallel", "2", "--frames", "10"], "--frames is 10"),
    ],
)
def test_what_is_not_legal_is_refused(capsys, options, message):
    assert main(["plan", *options]) == 2
    assert message in capsys.readouterr().err
