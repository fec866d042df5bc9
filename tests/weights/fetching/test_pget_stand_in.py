"""The stand-in does what the real pget was seen to do; the real one, where it is there, as well."""

import fcntl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.weights.fetching import faults
from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.fetching.hostile_tars import Files, honest_tar
from tests.weights.surroundings import pget_on_path, real_pget

DATA = bytes(range(256)) * 100
Run = Callable[..., int]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    server.serve("/x", DATA)
    yield server
    server.close()


@pytest.fixture(params=["stand-in", "real"])
def pget(request, tmp_path: Path) -> Iterator[Run]:
    """Run it with some arguments; its exit status."""

    def run(*arguments: object) -> int:
        command = ["pget", "--pid-file", tmp_path / "pid", *arguments]
        return subprocess.run(list(map(str, command)), stderr=subprocess.DEVNULL).returncode

    if request.param == "real":
        if real_pget() is None:
            pytest.skip("Replicate's pget is not on PATH")
        yield run
    else:
        with pget_on_path(tmp_path):
            yield run


def test_it_downloads(pget, server, tmp_path):
    options = ("--log-level=warn", "-m", "16M", "-c", "8")
    assert pget(*options, f"{server.url}/x", tmp_path / "out") == 0
    assert (tmp_path / "out").read_bytes() == DATA


def test_it_refuses_a_destination_that_exists_unless_forced(pget, server, tmp_path):
    (tmp_path / "out").touch()
    assert pget(f"{server.url}/x", tmp_path / "out") == 1
    assert (tmp_path / "out").read_bytes() == b""
    assert pget("-f", f"{server.url}/x", tmp_path / "out") == 0
    assert (tmp_path / "out").read_bytes() == DATA


def test_a_reset_is_an_error(pget, server, tmp_path):
    server.fault(faults.reset, times=1)
    assert pget(f"{server.url}/x", tmp_path / "out") == 1


def test_a_missing_object_or_an_unknown_option_is_an_error(pget, server, tmp_path):
    assert pget(f"{server.url}/y", tmp_path / "out") == 1
    assert pget("--checksum", f"{server.url}/x", tmp_path / "out") == 1


def test_wrong_bytes_are_no_error(pget, server, tmp_path):
    server.fault(faults.flip_bit)
    assert pget(f"{server.url}/x", tmp_path / "out") == 0
    assert (tmp_path / "out").read_bytes() != DATA


def test_a_tar_cut_between_members_is_no_error(pget, files: Files, server, tmp_path):
    data = honest_tar(files).data
    url = server.serve("/x.tar", data[: data.index(b"vae/config.json")])
    assert pget("-x", url, tmp_path / "out") == 0
    assert (tmp_path / "out" / "model_index.json").is_file()
    assert not (tmp_path / "out" / "vae").exists()


def test_two_at_once_wait_for_each_other(pget, server, tmp_path):
    """The pid file is locked while one is at work, and so nothing is asked for."""
    with (tmp_path / "pid").open("a") as pid_file:
        fcntl.flock(pid_file, fcntl.LOCK_EX)
        command = ["pget", "--pid-file", tmp_path / "pid", f"{server.url}/x", tmp_path / "out"]
        process = subprocess.Popen(list(map(str, command)))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        assert not server.requests
    assert process.wait(10) == 0
    assert (tmp_path / "out").read_bytes() == DATA
