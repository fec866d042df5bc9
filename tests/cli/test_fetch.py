"""`cogvideox fetch`: what it prints, writes and answers."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.random_folders import PIPELINE, write_folder
from tests.weights.surroundings import pget_on_path
from weights.install import install


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


@pytest.mark.parametrize("count", ["0", "-1", "-8"])
def test_no_connection_is_bad_input(capsys, tarball, tmp_path, count):
    code, out, err = run(capsys, tmp_path / "x.lock.json", tmp_path / "w", "--connections", count)
    assert (code, out) == (2, "")
    assert err.startswith(f"cogvideox fetch: --connections is {count}. ")
    assert err.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_the_default_of_connections_is_told_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["fetch", "--help"])
    assert "(default: 8)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("how", ["option", "variable"])
def test_an_unknown_engine_is_bad_input(capsys, tarball, tmp_path, monkeypatch, how):
    if how == "variable":
        monkeypatch.setenv("COGVIDEOX_FETCH_ENGINE", "curl")
    options = ["--engine", "curl"] if how == "option" else []
    code, out, err = run(capsys, tmp_path / "x.lock.json", tmp_path / "w", *options)
    assert (code, out) == (2, "")
    assert err.startswith("cogvideox fetch: There is no fetch engine 'curl'. ")
    assert err.count("\n") == 1
    assert not (tmp_path / "w").exists()


@pytest.fixture
def web() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


def lock_at(url: str, lock_file: Path) -> Path:
    """The same lock with another url."""
    fields = json.loads(lock_file.read_text())
    lock_file.write_text(json.dumps(fields | {"url": url}))
    return lock_file


@pytest.mark.parametrize("engine", ["auto", "builtin", "pget"])
def test_the_engine_and_why_are_told(capsys, tarball, tmp_path, web, engine):
    lock = lock_at(web.serve("/x.tar", tarball.read_bytes()), tmp_path / "x.lock.json")
    with pget_on_path(tmp_path):
        code, out, err = run(capsys, lock, tmp_path / "w", "--engine", engine)
    assert code == 0
    assert out.count("\n") == 1
    told = "the builtin engine: the default" if engine == "auto" else f"the {engine} engine: as ask"
    assert told in err
    assert installed(tmp_path / "w") == PIPELINE


def test_what_an_unpinned_lock_brought_can_be_pinned_as_it_says(capsys, tarball, tmp_path, web):
    """The pinned copy then installs by ranges: nothing but the files' bytes is fetched."""
    url = web.serve("/x.tar", tarball.read_bytes())
    lock = lock_at(url, tmp_path / "x.lock.json")
    fields = json.loads(lock.read_text())
    unpinned = tmp_path / "it's unpinned.lock.json"
    nothing = {"size": None, "digest": None, "setDigest": None, "files": []}
    unpinned.write_text(json.dumps(fields | nothing))

    code, out, err = run(capsys, unpinned, tmp_path / "first")
    assert code == 0
    assert "not pinned" in err
    command = out.splitlines()[-1].removeprefix("To pin these digests: ")
    subprocess.run(shlex.split(command), check=True)
    pinned = json.loads(unpinned.read_text())
    assert {name: pinned[name] for name in ("url", "size", "digest", "setDigest")} == {
        name: fields[name] for name in ("url", "size", "digest", "setDigest")
    }

    before = len(web.asked())
    code, out, err = run(capsys, unpinned, tmp_path / "second")
    assert code == 0
    assert "To pin" not in out
    assert "not pinned" not in err
    assert installed(tmp_path / "second") == PIPELINE
    spans = sorted(request.span for request in web.asked()[before:])
    assert spans == sorted(
        [(0, 1)] + [(file["offset"], file["offset"] + file["size"]) for file in fields["files"]]
    )


def test_json_of_an_unpinned_lock_is_one_document(capsys, tarball, tmp_path):
    fields = json.loads((tmp_path / "x.lock.json").read_text())
    nothing = {"size": None, "digest": None, "setDigest": None, "files": []}
    (tmp_path / "x.lock.json").write_text(json.dumps(fields | nothing))
    code, out, _ = run(capsys, tmp_path / "x.lock.json", tmp_path / "w", "--json")
    assert code == 0
    assert json.loads(out)["marker"]["setDigest"] == fields["setDigest"]


def test_a_download_that_broke_is_one_message_and_code_1(capsys, tarball, tmp_path, web):
    lock = lock_at(f"{web.url}/gone.tar?sig=SECRET", tmp_path / "x.lock.json")
    code, out, err = run(capsys, lock, tmp_path / "w")
    assert (code, out) == (1, "")
    assert "HTTP 404" in err.splitlines()[-1]
    assert "SECRET" not in err
    assert not (tmp_path / "w").exists()


def test_no_secret_of_the_url_is_printed(capsys, tarball, tmp_path, web):
    url = web.serve("/x.tar", tarball.read_bytes())
    lock = lock_at(f"{url}?sig=SECRET", tmp_path / "x.lock.json")
    for options in ([], ["--json"]):
        code, out, err = run(capsys, lock, tmp_path / "w", *options)
        assert code == 0
        assert "SECRET" not in out + err


def test_a_second_fetch_keeps_what_is_there(capsys, tarball, tmp_path):
    first = run(capsys, tmp_path / "x.lock.json", tmp_path / "w")[1]
    tarball.unlink()
    code, out, err = run(capsys, tmp_path / "x.lock.json", tmp_path / "w")
    assert (code, out, err) == (0, first, "")


def test_a_users_folder_is_bad_input(capsys, tarball, tmp_path):
    code, out, err = run(capsys, tmp_path / "x.lock.json", tmp_path / "model")
    assert (code, out) == (2, "")
    assert "was not made by an install" in err
    assert installed(tmp_path / "model") == PIPELINE


def test_the_options_reach_the_install(capsys, tarball, tmp_path, monkeypatch):
    seen: list[tuple[object, int]] = []

    def note(*arguments: Any, **options: Any) -> Path:
        seen.append((options["engine"], options["settings"].connections))
        return install(*arguments, **options)

    monkeypatch.setattr("cli.fetch.install", note)
    for options in ([], ["--connections", "3", "--engine", "builtin"]):
        assert run(capsys, tmp_path / "x.lock.json", tmp_path / "w", *options)[0] == 0
    assert seen == [(None, 8), ("builtin", 3)]
