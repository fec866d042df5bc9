"""`cogvideox pack` and `cogvideox fetch`: what they print, write and answer."""

import json
from pathlib import Path

import pytest

from cli.main import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The smallest weights folder: a pipeline of a scheduler."""
    folder = tmp_path / "model"
    (folder / "scheduler").mkdir(parents=True)
    index = {"_class_name": "CogVideoXPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    return folder


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_pack_then_fetch(capsys, folder, tmp_path):
    code, out, err = run(capsys, "pack", folder, tmp_path / "my-1.5.tar")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert "my-1.5.tar" in out
    code, out, err = run(capsys, "fetch", tmp_path / "my-1.5.lock.json", tmp_path / "installed")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert "2 files" in out
    for path in ("model_index.json", "scheduler/scheduler_config.json"):
        assert (tmp_path / "installed" / path).read_bytes() == (folder / path).read_bytes()


def test_json_is_one_document(capsys, folder, tmp_path):
    arguments = ["--url", "x.tar", "--name", "mine", "--json"]
    code, out, _ = run(capsys, "pack", folder, tmp_path / "x.tar", *arguments)
    lock = json.loads(out)
    assert code == 0
    assert lock == json.loads((tmp_path / "x.lock.json").read_text())
    assert (lock["name"], lock["url"]) == ("mine", "x.tar")
    code, out, _ = run(capsys, "fetch", tmp_path / "x.lock.json", tmp_path / "w", "--json")
    assert code == 0
    assert json.loads(out)["path"] == str(tmp_path / "w")
    assert json.loads(out)["marker"]["digest"] == lock["digest"]


def test_bad_input_is_one_line_and_code_2(capsys, folder, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "text.lock.json").write_text("hello")
    for arguments in (
        ("pack", tmp_path / "photos", tmp_path / "x.tar"),
        ("pack", tmp_path / "gone", tmp_path / "x.tar"),
        ("pack", folder, folder / "x.tar"),
        ("pack", folder, tmp_path / "x.zip"),
        ("pack", folder, tmp_path / "x.tar", "--url", "s3://bucket/x.tar"),
        ("fetch", tmp_path / "text.lock.json", tmp_path / "w"),
        ("fetch", tmp_path / "gone.lock.json", tmp_path / "w"),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith(f"cogvideox {arguments[0]}: ")
        assert err.count("\n") == 1
        assert not (tmp_path / "x.tar").exists()
        assert not (tmp_path / "w").exists()


def test_a_lock_whose_digest_does_not_match_is_code_1(capsys, folder, tmp_path):
    run(capsys, "pack", folder, tmp_path / "x.tar")
    data = bytearray((tmp_path / "x.tar").read_bytes())
    data[data.index(b"CogVideoXPipeline")] ^= 1
    (tmp_path / "x.tar").write_bytes(data)
    code, out, err = run(capsys, "fetch", tmp_path / "x.lock.json", tmp_path / "w")
    assert (code, out) == (1, "")
    assert "model_index.json" in err
    assert not (tmp_path / "w").exists()


def test_an_unwritable_lock_is_said(capsys, folder, tmp_path):
    (tmp_path / "x.lock.json").mkdir()
    code, out, err = run(capsys, "pack", folder, tmp_path / "x.tar")
    assert (code, out) == (1, "")
    assert "x.lock.json" in err


def test_a_bar_is_shown_on_a_terminal_only(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    _, _, err = run(capsys, "pack", folder, tmp_path / "x.tar")
    assert "Packing: 100%" in err
