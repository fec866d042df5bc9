"""Every hostile picture is read or refused in words, in bounded time and memory; nothing else."""

import json
import os
import random
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from predictors.image_decoder import decode
from weights.errors import UserError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# On a busy machine ten seconds of CPU time may take minutes.
pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory"),
]

MAX_CHEAP_SECONDS = 60  # of a busy machine; half a second of CPU time
MAX_CHEAP_BYTES = 100 << 20
MAX_BYTES = 1500 << 20


def run(script, folder):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / script), str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    run("image_attacks.py", folder)
    return folder


@pytest.fixture(scope="module")
def reports(corpus):
    lines = [json.loads(line) for line in run("measure_images.py", corpus).splitlines()]
    assert len(lines) == len(list(corpus.iterdir())) > 250
    return {line["name"]: line for line in lines}


def test_each_gives_a_picture_or_a_refusal(reports):
    for report in reports.values():
        assert report["outcome"] in ("read", "UserError"), report
        if report["outcome"] == "read":
            assert report["mode"] == "RGB"
            assert min(report["size"]) >= 32


def test_refusals_are_three_sentences_without_internals(reports):
    refusals = [r["sentences"] for r in reports.values() if r["outcome"] == "UserError"]
    assert len(refusals) > 150
    for sentences in refusals:
        assert len(sentences) == 3
        for sentence in sentences:
            assert sentence.isprintable()
            assert 10 < len(sentence) < 100
            assert sentence.endswith(".")
            assert not any(word in sentence for word in ("/", "PIL", "Pillow", "Error", "errno"))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("size-png-65500", "image has more than 65 million pixels."),
        ("size-png-12000", "image has more than 65 million pixels."),
        ("size-gif-screen", "image has more than 65 million pixels."),
        ("size-jpeg-65500", "image has more than 65 million pixels."),
        ("size-webp-lossless", "image has more than 65 million pixels."),
        ("size-png-icon", "image has 31×31 pixels."),
        ("size-png-wide", "image has 60000×100 pixels."),
        ("cut-jpeg-to-half", "image is a JPEG file that is damaged or incomplete."),
        ("cut-webp-to-half", "image is a WebP file that is damaged or incomplete."),
        ("cut-gif-to-half", "image is a GIF file that is damaged or incomplete."),
        ("png-text-bomb", "image is a PNG file that is damaged or incomplete."),
        ("other-heic", "image is a HEIC photo."),
        ("other-mp4", "image is a video."),
        ("other-saved-tiff", "image is a TIFF file."),
        ("other-svg", "image is not a picture of a known format."),
        ("other-nothing", "image is not a picture of a known format."),
        ("polyglot-png-after-pdf", "image is a PDF file."),
    ],
)
def test_refusals_say_what_was_wrong(reports, start, message):
    assert reports[start]["sentences"][0] == message


@pytest.mark.parametrize("name", ["expensive-jpeg-scans", "expensive-png-texts-without-names"])
def test_work_without_end_is_ended(reports, name):
    assert "limits of time and memory" in reports[name]["sentences"][0]


@pytest.mark.parametrize(
    "name",
    ["polyglot-png-and-zip", "polyglot-jpeg-and-film", "gif-100000-comments", "exif-garbage-jpeg"],
)
def test_what_viewers_would_show_is_read(reports, name):
    """Also says that the forger's files are refused for what they claim, not for how they lie."""
    assert reports[name]["outcome"] == "read"


def test_time_and_memory_are_bounded(reports):
    """Claims cost nothing, and real pixels what the largest legal picture costs."""
    cheap = [r for name, r in reports.items() if not name.startswith("expensive-")]
    assert max(report["seconds"] for report in cheap) < MAX_CHEAP_SECONDS
    assert max(report["peak"] for report in cheap) < MAX_CHEAP_BYTES
    assert MAX_CHEAP_BYTES < max(report["peak"] for report in reports.values()) < MAX_BYTES


def test_where_memory_ends_the_picture_is_refused(corpus):
    limit = (200 << 20,) * 2
    with (corpus / "expensive-png").open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "predictors.image_decoder", "2720"],
            stdin=file,
            capture_output=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
            cwd=ROOT,
        )
    assert done.returncode == 0, done.stderr
    assert "limits of time and memory" in json.loads(done.stdout)["refused"][0]


def test_damage_anywhere_is_refused_or_harmless(corpus):
    chance = random.Random(4)
    wholes = [path.read_bytes() for path in sorted(corpus.glob("polyglot-*-and-*"))]
    outcomes = []
    for _ in range(500):
        damaged = bytearray(chance.choice(wholes))
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            with warnings.catch_warnings(action="ignore"):
                outcomes.append(decode(bytes(damaged), 2720).mode)
        except UserError:
            outcomes.append("refused")
    assert set(outcomes) == {"RGB", "refused"}
