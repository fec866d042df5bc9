"""`cogvideox pack`: what it prints, writes and answers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import main
from tests.weights.random_folders import PIPELINE, write_folder
from weights.lock import lock_fields, read_lock

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", PIPELINE)


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["pack", *(str(argument) for argument in arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_writes_the_tarball_and_its_lock(capsys, folder, tmp_path):
    code, out, err = run(capsys, folder, tmp_path / "my-1.5.tar")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert "2 files" in out
    assert names(tmp_path) == {"model", "my-1.5.tar", "my-1.5.lock.json"}
    lock = read_lock(tmp_path / "my-1.5.lock.json")
    assert (lock.name, lock.url) == ("my-1-5", "my-1.5.tar")
    assert lock.size == (tmp_path / "my-1.5.tar").stat().st_size


def test_split_writes_the_files_and_their_lock(capsys, folder, tmp_path):
    code, out, err = run(capsys, folder, tmp_path / "my-1.5", "--split")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert "2 files" in out
    assert names(tmp_path) == {"model", "my-1.5", "my-1.5.lock.json"}
    assert {path: (tmp_path / "my-1.5" / path).read_bytes() for path in PIPELINE} == PIPELINE
    lock = read_lock(tmp_path / "my-1.5.lock.json")
    assert (lock.name, lock.url, lock.split) == ("my-1-5", "my-1.5/", True)


@pytest.mark.parametrize(
    ("output", "more", "url"),
    [("x.tar", [], "https://example.com/x.tar?key=1"), ("x", ["--split"], "s3://bucket/x/")],
)
def test_json_is_the_lock(capsys, folder, tmp_path, output, more, url):
    arguments = [*more, "--url", url, "--name", "mine", "--json"]
    code, out, err = run(capsys, folder, tmp_path / output, *arguments)
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "x.lock.json").read_text())
    assert json.loads(out) == lock_fields(read_lock(tmp_path / "x.lock.json"))
    assert (json.loads(out)["name"], json.loads(out)["url"]) == ("mine", url)


@pytest.mark.parametrize(
    ("source", "output", "more"),
    [
        ("photos", "x.tar", []),
        ("gone", "x.tar", []),
        ("model", "model/x.tar", []),
        ("model", "x.zip", []),
        ("model", "x", []),
        ("model", ".", []),
        ("model", "x.tar", ["--url", "ftp://example.com/x.tar"]),
        ("model", "x.tar", ["--name", "a b"]),
        ("model", "lock taken.tar", []),
        ("photos", "x", ["--split"]),
        ("model", "x.tar", ["--split"]),
        ("model", "taken", ["--split"]),
        ("model", "model/x", ["--split"]),
        ("model", ".", ["--split"]),
        ("model", "lock taken", ["--split"]),
        ("model", "x", ["--split", "--url", "https://example.com/x?key=SECRET"]),
    ],
)
def test_bad_input_is_one_line_and_code_2(capsys, folder, tmp_path, source, output, more):
    (tmp_path / "photos").mkdir()
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "lock taken.lock.json").mkdir()
    before = names(tmp_path)
    code, out, err = run(capsys, tmp_path / source, tmp_path / output, *more)
    assert (code, out) == (2, "")
    assert err.startswith("cogvideox pack: ")
    assert err.count("\n") == 1
    assert "SECRET" not in err
    assert names(tmp_path) == before
    assert names(folder) == {"model_index.json", "s"}


def test_an_unwritable_lock_is_said(capsys, folder, tmp_path):
    """As long a name as the tarball's temporary sibling may have is too long for the lock's."""
    name = "x" * (os.pathconf(tmp_path, "PC_NAME_MAX") - len(f".tar.tmp.{os.getpid()}"))
    code, out, err = run(capsys, folder, tmp_path / f"{name}.tar")
    assert (code, out) == (1, "")
    assert f"{name}.lock.json is not" in err
    assert names(tmp_path) == {"model", f"{name}.tar"}


def test_a_bar_is_shown_on_a_terminal_only(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    _, _, err = run(capsys, folder, tmp_path / "x.tar")
    assert "Packing: 100%" in err
    _, _, err = run(capsys, folder, tmp_path / "x", "--split")
    assert "Packing: 100%" in err


@pytest.mark.parametrize(("output", "more"), [("x.tar", []), ("x", ["--split"])])
def test_ctrl_c_in_a_terminal_ends_it_promptly_and_leaves_nothing(folder, tmp_path, output, more):
    """Of a folder that would take minutes: files that are holes are read like others."""
    for number in range(4):
        with (folder / f"{number}.bin").open("wb") as file:
            file.truncate(1 << 30)
    command = [sys.executable, "-m", "cli.main", "pack", str(folder), str(tmp_path / output), *more]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        while names(tmp_path) == {"model"}:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, out) == (1, "")
    # On a busy machine a line before it says that it takes a moment.
    moment = "Interrupted: it ends as soon as what is under way has.\n"
    assert err.removeprefix(moment) == "cogvideox pack: interrupted.\n"
    assert names(tmp_path) == {"model"}


def test_help_shows_both_forms(capsys):
    with pytest.raises(SystemExit):
        main(["pack", "--help"])
    text = capsys.readouterr().out
    assert "cogvideox pack checkpoints/my-5b checkpoints/my-5b.tar\n" in text
    assert "cogvideox pack checkpoints/my-5b checkpoints/my-5b-files --split\n" in text
