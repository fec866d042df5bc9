"""pget may hang, lie or die: what is installed is right, and the builtin engine takes over."""

import dataclasses
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.weights.fetching import faults
from tests.weights.fetching.faults import Request
from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.fetching.hostile_tars import Files, honest_tar, tar_with
from tests.weights.install_runner import InstallRunner
from tests.weights.surroundings import (
    QUICK,
    in_many_pieces,
    install_or_error,
    pget_on_path,
    pinned_lock,
)
from weights.lock import Lock, write_lock

TAKES_OVER = "takes over"


@pytest.fixture
def files(files: Files) -> Files:
    return in_many_pieces(files)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


@pytest.fixture
def lock(server: FaultyServer, files: Files) -> Lock:
    tar = honest_tar(files)
    return pinned_lock(tar, files, server.serve("/w.tar", tar.data))


def runs(log: Path) -> list[list[str]]:
    """The arguments of each run of the stand-in."""
    return [json.loads(line)["arguments"] for line in log.read_text().splitlines()]


def by_builtin(server: FaultyServer) -> list[Request]:
    """pget knows no If-Match, and builtin sends it for all but its first look."""
    return [request for request in server.requests if request.if_match]


def living(log: Path) -> list[str]:
    """The processes of the sessions that the stand-in began, dead ones left out."""
    sessions = {json.loads(line)["session"] for line in log.read_text().splitlines()}
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) in sessions and fields[0] != "Z":
            found.append(path.parent.name)
    return found


GOOD = ("ok", "slow", "noisy")
BAD = (
    "exit1",
    "no_file",
    "reset",
    "stall",
    "stubborn",
    "child",
    "killed",
    "wrong_bytes",
    "truncated",
    "too_long",
)


@pytest.mark.parametrize("way", GOOD)
def test_what_pget_brings_is_installed(lock, server, around, files, tmp_path, caplog, way):
    """Also slowly, if only something comes now and then."""
    with pget_on_path(tmp_path, way) as log:
        assert install_or_error(around, lock, files, engine="pget") is None
        assert len(runs(log)) == 1
    assert not by_builtin(server)
    assert TAKES_OVER not in caplog.text


@pytest.mark.parametrize("way", BAD)
def test_builtin_takes_over_from_a_pget_that_goes_wrong(
    lock, server, around, files, tmp_path, caplog, way
):
    with pget_on_path(tmp_path, way) as log:
        assert install_or_error(around, lock, files, engine="pget") is None
        assert len(runs(log)) == 1
        assert not living(log)
    assert by_builtin(server)
    assert TAKES_OVER in caplog.text


@pytest.mark.parametrize("way", BAD)
def test_nothing_that_a_bad_pget_left_is_taken_for_the_weights(
    lock, server, around, files, tmp_path, way
):
    """After it, the server has nothing any more."""
    program_asks_for = -(-(lock.size or 0) // (8 << 10))
    gone = faults.status(404)
    server.fault(gone, when=lambda request: request.number >= program_asks_for)
    with pget_on_path(tmp_path, way) as log:
        error = install_or_error(around, lock, files, engine="pget")
        assert len(runs(log)) == 1
    assert "HTTP 404" in str(error)
    assert around.leftovers() <= {"w.partial", ".w.lock"}
    assert not list(around.folder.rglob("*.tar"))


def test_pget_is_told_what_keeps_it_safe(lock, around, files, tmp_path):
    with pget_on_path(tmp_path) as log:
        assert install_or_error(around, lock, files, engine="pget") is None
        ((*options, url, target),) = runs(log)
    assert url == lock.url
    assert Path(target).is_relative_to(around.folder / "w.partial")
    assert not {"-x", "--extract", "-f", "--force"} & set(options)
    given = dict(itertools.pairwise(options))
    assert (given["-m"], given["-c"]) == ("16M", "8")
    assert Path(given["--pid-file"]).is_relative_to(around.folder / "w.partial")


def test_told_to_extract_it_would_escape(server, around, files, tmp_path):
    """Why it is not."""
    for name in ("sibling prefix", "symlink and a file through it", "hard link and the file again"):
        url = server.serve("/x.tar", tar_with(name, files, around.outside).data)
        target = around.folder / "w"
        with pget_on_path(tmp_path):
            command = ["pget", "--pid-file", str(tmp_path / "pid"), "-x", url, str(target)]
            assert subprocess.run(command).returncode == 0
        with pytest.raises(AssertionError):
            around.check()
        for evil in ("outside/evil", "w-evil/x"):
            (around.folder / evil).unlink(missing_ok=True)
        (around.outside / "kept").write_text("kept in outside")
        shutil.rmtree(target)
        around.check()


def test_a_secret_is_no_argument_of_a_process(lock, server, around, files, tmp_path):
    secret = dataclasses.replace(lock, url=f"{lock.url}?sig=SECRET")
    with pget_on_path(tmp_path) as log:
        assert install_or_error(around, secret, files, engine="pget") is None
        assert runs(log) == []


def test_without_pget_on_path_builtin_takes_over(lock, around, files, caplog, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert install_or_error(around, lock, files, engine="pget") is None
    assert TAKES_OVER in caplog.text


@pytest.mark.parametrize("cache", [True, False])
def test_pget_is_chosen_where_a_cache_is_near(
    lock, around, files, tmp_path, caplog, monkeypatch, cache
):
    caplog.set_level(logging.INFO)
    if cache:
        monkeypatch.setenv("PGET_CACHE_SERVICE_HOSTNAME", "cache.test")
    with pget_on_path(tmp_path) as log:
        assert install_or_error(around, lock, files) is None
        assert len(runs(log)) == cache
    assert f"with the {'pget' if cache else 'builtin'} engine" in caplog.text


@pytest.fixture(scope="module")
def hanging_runner(tmp_path_factory) -> Iterator[tuple[InstallRunner, Path]]:
    """Its installs meet a pget that stalls."""
    with pget_on_path(tmp_path_factory.mktemp("pget"), "stall") as log:
        runner = InstallRunner()
    yield runner, log
    runner.close()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_killed_install_takes_its_pget_with_it(lock, around, files, tmp_path, hanging_runner):
    """Or it would hang for ever, with the disk space of its half tarball."""
    runner, log = hanging_runner
    write_lock(lock, tmp_path / "lock.json")
    process = runner.start(
        tmp_path / "lock.json",
        around.destination,
        tmp_path / "log",
        settings=dataclasses.replace(QUICK, stall_seconds=60.0),
        engine="pget",
    )
    wait_until(lambda: list(around.folder.glob("w.partial/*.tar")) and living(log))
    os.kill(process, signal.SIGKILL)
    assert runner.wait(process) == -signal.SIGKILL
    try:
        assert install_or_error(around, lock, files, engine="builtin") is None
        wait_until(lambda: not living(log))
    finally:
        for left in living(log):
            os.kill(int(left), signal.SIGKILL)
