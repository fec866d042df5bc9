"""`cogvideox fetch`: what it prints, writes and answers."""

import json
from pathlib import Path

import pytest

from cli.main import main
from tests.weights.random_folders import PIPELINE, write_folder


@pytest.fixture
def tarball(tmp_path: Path, capsys) -> Path:
    """A packed folder, beside its lock x.lock.json."""
    folder = write_folder(tmp_path / "model", PIPELINE)
    main(["pack", str(folder), str(tmp_path / "x.tar")])
    capsys.readouterr()
    return tmp_path / "x.tar"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["fetch", *(str(argument) for argument in arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def installed(folder: Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in PIPELINE}


def test_installs_what_was_packed(capsys, tarball, tmp_path):
    code, out, _ = run(capsys, tmp_path / "x.lock.json", tmp_path / "w")
    assert code == 0
    assert out.count("\n") == 1
    assert "2 files" in out
    assert installed(tmp_path / "w") == PIPELINE


def test_installs_what_was_packed_file_by_file(capsys, tarball, tmp_path):
    main(["pack", str(tmp_path / "model"), str(tmp_path / "files"), "--split"])
    capsys.readouterr()
    code, out, _ = run(capsys, tmp_path / "files.lock.json", tmp_path / "w")
    assert code == 0
    assert "2 files" in out
    assert installed(tmp_path / "w") == PIPELINE


def test_json_is_one_document(capsys, tarball, tmp_path):
    lock = json.loads((tmp_path / "x.lock.json").read_text())
    code, out, _ = run(capsys, tmp_path / "x.lock.json", tmp_path / "w", "--json")
    assert code == 0
    assert json.loads(out)["path"] == str(tmp_path / "w")
    assert json.loads(out)["marker"]["digest"] == lock["digest"]


@pytest.mark.parametrize("lock", ["text.lock.json", "gone.lock.json"])
def test_bad_input_is_one_line_and_code_2(capsys, tmp_path, lock):
    (tmp_path / "text.lock.json").write_text("hello")
    code, out, err = run(capsys, tmp_path / lock, tmp_path / "w")
    assert (code, out) == (2, "")
    assert err.startswith("cogvideox fetch: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_tarball_whose_digest_does_not_match_is_code_1(capsys, tarball, tmp_path):
    data = bytearray(tarball.read_bytes())
    data[data.index(b"_class_name")] ^= 1
    tarball.write_bytes(data)
    code, out, err = run(capsys, tmp_path / "x.lock.json", tmp_path / "w")
    assert (code, out) == (1, "")
    assert "model_index.json" in err
    assert not (tmp_path / "w").exists()
