"""`inspect`, `convert` and `nano` as a user runs them."""

import json
import shutil
from pathlib import Path

import pytest

from cli.main import main

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
VAE = str(GOLDEN / "vae" / "sat" / "vae" / "3d-vae.pt")


def golden_arguments(name):
    return [str(GOLDEN / name / "sat"), "--config", str(GOLDEN / name / "model.yaml")]


def test_inspect_tells_the_variant(capsys):
    transformer = str(GOLDEN / "5b" / "sat" / "transformer")
    assert main(["inspect", transformer]) == 0
    assert "cogvideox-5b (t2v, with sizes of its own)" in capsys.readouterr().out
    assert main(["inspect", transformer, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["transformer"]["layers"] == 2


def test_convert_writes_a_folder_and_says_what_is_missing(tmp_path, capsys):
    source, *config = golden_arguments("2b")
    code = main(["convert", source, str(tmp_path / "2b"), *config, "--vae", VAE])
    assert code == 0
    captured = capsys.readouterr()
    assert "cogvideox-2b, float32, 308 tensors" in captured.out
    assert "--text-encoder" in captured.err
    assert (tmp_path / "2b" / "model_index.json").is_file()


def test_convert_prints_one_json_document(tmp_path, capsys):
    source, *config = golden_arguments("2b")
    main(["convert", source, str(tmp_path / "2b"), *config, "--vae", VAE, "--json"])
    assert json.loads(capsys.readouterr().out)["variant"] == "cogvideox-2b"


def bad_sources(tmp_path):
    text = tmp_path / "text"
    (text / "transformer" / "1").mkdir(parents=True)
    (text / "transformer" / "latest").write_text("1")
    (text / "transformer" / "1" / "mp_rank_00_model_states.pt").write_text("not weights")
    cut = tmp_path / "cut"
    shutil.copytree(GOLDEN / "2b" / "sat", cut)
    file = cut / "transformer" / "1" / "mp_rank_00_model_states.pt"
    file.write_bytes(file.read_bytes()[:1_000_000])
    return {
        "absent": [str(tmp_path / "absent")],
        "text": [str(text)],
        "cut": [str(cut)],
        "lora": golden_arguments("lora_2b"),
        "no yaml": golden_arguments("2b")[:1],
        "empty": [str(tmp_path)],
        "vae is text": golden_arguments("2b"),
        "no such yaml": [golden_arguments("2b")[0], "--config", str(tmp_path / "absent.yaml")],
        "no such t5": [*golden_arguments("2b"), "--vae", VAE, "--text-encoder", str(text / "x")],
    }


@pytest.mark.parametrize(
    "kind",
    [
        "absent",
        "text",
        "cut",
        "lora",
        "no yaml",
        "empty",
        "vae is text",
        "no such yaml",
        "no such t5",
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(kind, tmp_path, capsys):
    source, *options = bad_sources(tmp_path)[kind]
    target = tmp_path / "out"
    target.mkdir()
    assert main(["convert", source, str(target / "folder"), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("cogvideox convert: ")
    assert captured.err.count("\n") == 1
    assert list(target.iterdir()) == []


def test_a_taken_destination_is_refused_before_the_source_is_read(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["convert", str(tmp_path / "absent"), str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
