"""`cogvideox predict`: inputs typed by the schema, one file written whole, one line said."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cli.main import main
from cli.predict import typed_inputs, with_format_of
from predictors.video import read_video
from weights.errors import UserError

PROPERTIES = {
    "prompt": {"type": "string"},
    "steps": {"type": "integer"},
    "scale": {"type": "number"},
    "fast": {"type": "boolean"},
    "mode": {"allOf": []},
}


def test_values_get_the_types_of_the_schema():
    pairs = ["prompt=a = b", "steps=3", "scale=2.5", "fast=true", "mode=good"]
    assert typed_inputs(pairs, PROPERTIES) == {
        "prompt": "a = b",
        "steps": 3,
        "scale": 2.5,
        "fast": True,
        "mode": "good",
    }


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("prompts=x", "no input named 'prompts'. The inputs are prompt, steps,"),
        ("prompt", "-i 'prompt' has no value"),
        ("steps=many", "steps is 'many'. It must be of the type integer."),
        ("steps=2.5", "It must be of the type integer"),
        ("scale=big", "It must be of the type number"),
        ("fast=yes", "It must be of the type boolean"),
    ],
)
def test_what_is_no_input_is_refused(pair, message):
    with pytest.raises(UserError) as caught:
        typed_inputs([pair], PROPERTIES)
    assert message in str(caught.value)


FORMAT = {"output_format": {}}


@pytest.mark.parametrize(
    ("output", "inputs", "name", "format_asked"),
    [
        (None, {}, "output.mp4", None),
        (None, {"output_format": "gif"}, "output.gif", "gif"),
        ("a.webm", {}, "a.webm", "webm"),
        ("a.GIF", {}, "a.GIF", "gif"),
        ("a", {}, "a", "mp4"),
        ("a", {"output_format": "webm"}, "a", "webm"),
        ("a.gif", {"output_format": "gif"}, "a.gif", "gif"),
    ],
)
def test_the_files_ending_and_its_format_agree(output, inputs, name, format_asked):
    path, found = with_format_of(Path(output) if output else None, inputs, FORMAT)
    assert (str(path), found.get("output_format")) == (name, format_asked)


def test_a_server_without_formats_is_asked_for_none():
    assert with_format_of(Path("a.gif"), {"x": 1}, {}) == (Path("a.gif"), {"x": 1})


def test_an_ending_that_is_not_the_format_is_refused():
    with pytest.raises(UserError, match=r"output_format is gif and the output a\.mp4"):
        with_format_of(Path("a.mp4"), {"output_format": "gif"}, FORMAT)


def arguments(server, output, *more):
    prompt = ["-i", "prompt=a red circle", "-i", "num_inference_steps=2"]
    return ["predict", "t2v", *prompt, "-o", str(output), "--url", server.url, *more]


def test_the_file_is_written_and_one_line_is_said(server, tmp_path, capsys):
    assert main(arguments(server, tmp_path / "out.mp4")) == 0
    output = capsys.readouterr()
    assert output.out.startswith(f"{tmp_path / 'out.mp4'}: ")
    assert output.out.count("\n") == 1
    assert "Using seed:" in output.err
    frames, _ = read_video(tmp_path / "out.mp4")
    assert frames.shape == (9, 64, 64, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_an_address_may_end_in_a_slash(server, tmp_path):
    slashed = replace(server, url=f"{server.url}/")
    assert main(arguments(slashed, tmp_path / "out.gif", "-i", "seed=1")) == 0


def test_json_is_one_document(server, tmp_path, capsys):
    assert main(arguments(server, tmp_path / "out.mp4", "--json", "-i", "seed=4")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bytes"] == (tmp_path / "out.mp4").stat().st_size
    assert report["inputs"]["seed"] == 4
    assert report["metrics"]["timing"]["denoise"] > 0


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["-i", "prompts=x"], 2, "There is no input named 'prompts'"),
        (["-i", "seed=-1"], 2, "seed: -1 is less than the minimum of 0"),
        (
            ["-i", "num_frames=12"],
            1,
            "cogvideox predict: The prediction failed: num_frames is 12. nano makes 9 frames",
        ),
    ],
)
def test_bad_input_is_one_message_and_no_file(server, tmp_path, capsys, more, code, message):
    assert main(arguments(server, tmp_path / "out.mp4", *more)) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert "Traceback" not in output.err
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_not_there_is_said_before_any_work(server, tmp_path, capsys):
    assert main(arguments(server, tmp_path / "no" / "out.mp4")) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_without_a_url_it_starts_and_ends_its_own_server(tiny_folder, tmp_path, capsys):
    inputs = ["-i", "prompt=a", "-i", "num_inference_steps=1"]
    output = tmp_path / "out.mp4"
    weights = ["--weights", str(tiny_folder)]
    assert main(["predict", "t2v", *inputs, "-o", str(output), *weights]) == 0
    assert output.stat().st_size > 1000
    assert "step 1/1" in capsys.readouterr().err


def test_an_image_on_this_machine_is_sent_along(i2v_server, tmp_path, capsys):
    Image.new("RGB", (90, 60), "teal").save(tmp_path / "photo.jpg")
    inputs = [f"image=@{tmp_path / 'photo.jpg'}", "prompt=it moves", "num_inference_steps=1"]
    arguments = [part for pair in inputs for part in ("-i", pair)]
    output = tmp_path / "out.gif"
    command = ["predict", "i2v", *arguments, "-o", str(output), "--url", i2v_server.url, "--json"]
    assert main(command) == 0
    frames, _ = read_video(output)
    assert frames.shape == (9, 64, 64, 3)
    report = json.loads(capsys.readouterr().out)
    assert report["inputs"]["image"] == "data:image/jpeg;base64,…"


def test_a_missing_image_is_said(i2v_server, tmp_path, capsys):
    output = str(tmp_path / "out.mp4")
    assert main(["predict", "i2v", "-i", "prompt=x", "-o", output, "--url", i2v_server.url]) == 2
    assert "image" in capsys.readouterr().err
