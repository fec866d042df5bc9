"""`cogvideox verify-install`: quick or every byte, what it prints and answers."""

import json
from pathlib import Path

import pytest

from cli.main import main
from tests.weights.random_folders import PIPELINE, write_folder

SIZE = sum(map(len, PIPELINE.values()))


@pytest.fixture
def installed(tmp_path: Path, capsys) -> Path:
    folder = write_folder(tmp_path / "model", PIPELINE)
    main(["pack", str(folder), str(tmp_path / "mine.tar")])
    main(["fetch", str(tmp_path / "mine.lock.json"), str(tmp_path / "w")])
    capsys.readouterr()
    return tmp_path / "w"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["verify-install", *(str(argument) for argument in arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("options", "checked"), [([], "sizes and headers"), (["--full"], "every byte")]
)
def test_a_whole_install_is_one_line_and_code_0(capsys, installed, options, checked):
    code, out, err = run(capsys, installed, *options)
    assert (code, err) == (0, "")
    assert out == (
        f"{installed} is a whole install of mine: 2 files, {SIZE} bytes ({checked} checked).\n"
    )


@pytest.mark.parametrize("full", [False, True])
def test_json_is_one_document(capsys, installed, full):
    code, out, err = run(capsys, installed, "--json", *(["--full"] if full else []))
    assert (code, err) == (0, "")
    marker = json.loads((installed / ".install.json").read_text())
    assert json.loads(out) == {
        "path": str(installed),
        "name": "mine",
        "variant": None,
        "setDigest": marker["setDigest"],
        "files": 2,
        "size": SIZE,
        "full": full,
    }


@pytest.mark.parametrize("options", [[], ["--json"], ["--full"], ["--full", "--json"]])
def test_a_missing_file_is_one_line_and_code_2(capsys, installed, options):
    (installed / "model_index.json").unlink()
    code, out, err = run(capsys, installed, *options)
    assert (code, out) == (2, "")
    assert err.startswith("cogvideox verify-install: ")
    assert "model_index.json is missing" in err
    assert err.count("\n") == 1


def test_a_flipped_bit_is_found_with_full_alone(capsys, installed):
    flip(installed / "s" / "scheduler_config.json")
    assert run(capsys, installed)[0] == 0
    code, out, err = run(capsys, installed, "--full")
    assert (code, out) == (2, "")
    assert "s/scheduler_config.json" in err


def test_an_added_file_is_found_with_full_alone(capsys, installed):
    (installed / "notes.txt").write_text("mine")
    assert run(capsys, installed)[0] == 0
    code, out, err = run(capsys, installed, "--full")
    assert (code, out) == (2, "")
    assert "notes.txt" in err


@pytest.mark.parametrize("name", ["model", "gone", "mine.tar"])
def test_what_is_no_install_is_code_2(capsys, installed, name):
    code, out, err = run(capsys, installed.parent / name)
    assert (code, out) == (2, "")
    assert f"{name} is not a" in err


def test_a_bar_is_shown_on_a_terminal_only(capsys, installed, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    _, _, err = run(capsys, installed, "--full")
    assert "Verifying: 100%" in err
