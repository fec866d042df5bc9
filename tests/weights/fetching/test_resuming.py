"""What a broken or killed fetch left is used by the next, and only as far as it is right."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.weights.fetching import faults
from tests.weights.fetching.faults import Request, with_body
from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.fetching.hostile_tars import Files, honest_tar
from tests.weights.install_runner import InstallRunner
from tests.weights.surroundings import (
    QUICK,
    Surroundings,
    in_many_pieces,
    install_or_error,
    pinned_lock,
    split_lock,
)
from weights.errors import OperationError
from weights.fetching.web_reader import WebReader
from weights.install import install
from weights.lock import Lock, write_lock

PATIENT = dataclasses.replace(QUICK, stall_seconds=60.0)
# One connection, so that requests come in the order of the pieces.
ONE = dataclasses.replace(PATIENT, connections=1)


@pytest.fixture
def files(files: Files) -> Files:
    return in_many_pieces(files)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def runner() -> Iterator[InstallRunner]:
    runner = InstallRunner()
    yield runner
    runner.close()


@pytest.fixture(params=["tarball", "split"])
def lock(request, server: FaultyServer, files: Files) -> Lock:
    tar = honest_tar(files)
    whole = pinned_lock(tar, files, server.serve("/w.tar", tar.data))
    for path, data in files.items():
        server.serve(f"/w/{path}", data)
    return whole if request.param == "tarball" else split_lock(whole, f"{server.url}/w/")


def bodies(server: FaultyServer) -> list[Request]:
    """The requests for more than the one byte that tells what an object is."""
    return [request for request in server.requests if with_body(request)]


def asked(requests: list[Request]) -> list[tuple[str, int, int]]:
    return sorted((request.path, *request.span) for request in requests)


def payloads(lock: Lock) -> dict[tuple[str, int], str]:
    """What each byte of the lock's files is called at the server."""
    return {
        (f"/w/{file.path}" if lock.split else "/w.tar", (file.offset or 0) + at): file.path
        for file in lock.files
        for at in range(file.size)
    }


def test_exactly_the_bytes_of_the_files_are_asked_for_once(lock, server, around, files):
    assert install_or_error(around, lock, files, engine="builtin") is None
    requests = bodies(server)
    bytes_asked = [(path, at) for path, start, end in asked(requests) for at in range(start, end)]
    assert sorted(bytes_asked) == sorted(payloads(lock))
    assert {request.if_match for request in requests} == {'"v1"'}


def test_a_weak_etag_is_not_asked_to_match(lock, server, around, files):
    server.fault(faults.with_headers(ETag='W/"v1"'))
    assert install_or_error(around, lock, files, engine="builtin") is None
    assert {request.if_match for request in server.requests} == {None}


@pytest.mark.parametrize("break_off", [faults.cut, faults.reset])
def test_a_piece_goes_on_where_it_broke_off(lock, server, around, files, break_off):
    """Of a reset the system may drop bytes that came before it."""
    server.fault(break_off, when=lambda request: request.span[1] - request.span[0] == 4096, times=1)
    assert install_or_error(around, lock, files, engine="builtin", settings=ONE) is None
    whole = next(r for r in bodies(server) if r.span[1] - r.span[0] == 4096)
    again = next(r for r in bodies(server) if r.number > whole.number)
    start, end = whole.span
    assert again.path == whole.path
    if break_off is faults.cut:
        assert again.span == (start + 2048, end)
    else:
        assert start <= again.span[0] <= start + 2048


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_what_no_try_mends_is_tried_once(lock, server, around, files, code):
    server.fault(faults.status(code))
    assert install_or_error(around, lock, files, engine="builtin") is not None
    assert len(server.requests) == 1


def test_what_a_try_may_mend_is_tried_as_often_as_told(lock, server, around, files):
    server.fault(faults.status(503))
    assert install_or_error(around, lock, files, engine="builtin") is not None
    assert len(server.requests) == QUICK.attempts


def test_a_server_that_asks_for_a_pause_gets_it(lock, server, around, files):
    """As long as it asks for, but not longer than the settings allow."""
    times: list[float] = []
    settings = dataclasses.replace(QUICK, longest_pause_seconds=0.3)
    record = faults.doing(lambda: times.append(time.monotonic()))
    server.fault(faults.status(503, Retry_After="1"), times=1)
    server.fault(record, times=1)
    start = time.monotonic()
    assert install_or_error(around, lock, files, engine="builtin", settings=settings) is None
    assert times[0] - start >= 0.3


# After a break or a kill.


def leave_partial(
    runner: InstallRunner, server: FaultyServer, lock: Lock, around: Surroundings, tmp_path: Path
) -> list[Request]:
    """Kill an install at its eighth piece; the requests that were answered before."""
    seen: list[Request] = []
    server.fault(faults.stall, when=lambda request: len(bodies(server)) == 8, times=1)
    write_lock(lock, tmp_path / "lock.json")
    log = tmp_path / "log"
    process = runner.start(
        tmp_path / "lock.json", around.destination, log, settings=ONE, engine="builtin"
    )
    assert server.stalled.wait(30), log.read_text()
    os.kill(process, signal.SIGKILL)
    assert runner.wait(process) == -signal.SIGKILL
    around.check_nothing_installed()
    seen = bodies(server)[:-1]
    server.heal()
    server.requests.clear()
    return seen


def test_after_a_kill_only_the_missing_pieces_are_asked_for(
    lock, server, around, files, runner, tmp_path
):
    before = leave_partial(runner, server, lock, around, tmp_path)
    assert len(before) == 7
    assert install_or_error(around, lock, files, engine="builtin", settings=ONE) is None
    after = bodies(server)
    assert not set(asked(before)) & set(asked(after))
    both = [(p, at) for p, start, end in asked(before + after) for at in range(start, end)]
    assert sorted(both) == sorted(payloads(lock))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def landed_file(partial: Path) -> Path:
    """A file of which the first piece landed."""
    shards = [path for path in partial.rglob("*.safetensors") if path.read_bytes()[:1] != b"\0"]
    return shards[0]


def journal(partial: Path) -> Path:
    (found,) = (path for path in partial.iterdir() if path.is_file())
    return found


# What may have happened to what a killed process left.
DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda partial: flip(landed_file(partial)),
    "a file cut short": lambda partial: os.truncate(landed_file(partial), 100),
    "a file grown": lambda partial: os.truncate(landed_file(partial), 1 << 20),
    "a file gone": lambda partial: landed_file(partial).unlink(),
    "a file of zeros": lambda partial: landed_file(partial).write_bytes(bytes(9000)),
    "a journal cut within a line": lambda partial: os.truncate(
        journal(partial), journal(partial).stat().st_size - 2
    ),
    "a journal cut within its head": lambda partial: os.truncate(journal(partial), 10),
    "an empty journal": lambda partial: journal(partial).write_bytes(b""),
    "a journal of zeros": lambda partial: journal(partial).write_bytes(bytes(4096)),
    "a journal that goes on with noise": lambda partial: journal(partial).write_bytes(
        journal(partial).read_bytes() + bytes(range(256)) + b"\n99999 99999\n0 -1\n1 2 3\n"
    ),
    "a journal that claims everything": lambda partial: journal(partial).write_text(
        journal(partial).read_text().partition("\n")[0]
        + "\n"
        + "".join(f"{file} {piece}\n" for file in range(12) for piece in range(6))
    ),
    "no journal": lambda partial: journal(partial).unlink(),
    "nothing in it": lambda partial: [
        path.unlink() for path in sorted(partial.rglob("*")) if path.is_file()
    ],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_a_kill_left_is_used_only_as_far_as_it_is_right(
    lock, server, around, files, runner, tmp_path, damage
):
    leave_partial(runner, server, lock, around, tmp_path)
    (partial,) = around.folder.glob("w.partial")
    damage(partial)
    assert install_or_error(around, lock, files, engine="builtin") is None


def test_damage_of_one_file_costs_the_bytes_of_that_file_only(
    lock, server, around, files, runner, tmp_path
):
    leave_partial(runner, server, lock, around, tmp_path)
    damaged = landed_file(around.folder / "w.partial")
    flip(damaged)
    assert install_or_error(around, lock, files, engine="builtin", settings=ONE) is None
    total = sum(map(len, files.values()))
    assert sum(end - start for _, start, end in asked(bodies(server))) < total


@pytest.mark.parametrize("change", ["other weights", "other pieces", "the other kind"])
def test_what_was_left_of_another_fetch_does_no_harm(
    lock, server, around, files, runner, tmp_path, change
):
    leave_partial(runner, server, lock, around, tmp_path)
    settings = QUICK
    if change == "other weights":
        files = {path: data.replace(b"1", b"2") for path, data in files.items()}
        tar = honest_tar(files)
        lock = pinned_lock(tar, files, server.serve("/other.tar", tar.data))
    elif change == "other pieces":
        settings = dataclasses.replace(QUICK, piece_bytes=1000)
    else:
        tar = honest_tar(files)
        tarball = pinned_lock(tar, files, f"{server.url}/w.tar")
        lock = tarball if lock.split else split_lock(tarball, f"{server.url}/w/")
    assert install_or_error(around, lock, files, engine="builtin", settings=settings) is None


def test_after_an_error_only_the_missing_pieces_are_asked_for(lock, server, around, files):
    """A presigned url that expired in the middle, say."""
    server.fault(faults.status(403), when=lambda request: len(bodies(server)) >= 8)
    error = install_or_error(around, lock, files, engine="builtin", settings=ONE)
    assert "HTTP 403" in str(error)
    before = bodies(server)[:-1]
    server.heal()
    server.requests.clear()
    assert install_or_error(around, lock, files, engine="builtin", settings=ONE) is None
    assert not set(asked(before)) & set(asked(bodies(server)))


def test_wrong_weights_are_not_kept(lock, server, around, files):
    server.fault(faults.flip_bit, when=with_body)
    assert "with the digest" in str(install_or_error(around, lock, files, engine="builtin"))
    assert around.leftovers() <= {".w.lock"}


def test_an_interruption_keeps_what_landed(lock, server, around, files):
    done = 0

    def interrupt(count: int) -> None:
        nonlocal done
        done += count
        if done > 20_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install(lock, around.destination, engine="builtin", settings=ONE, progress=interrupt)
    around.check_nothing_installed()
    server.requests.clear()
    assert install_or_error(around, lock, files, engine="builtin", settings=ONE) is None
    total = sum(map(len, files.values()))
    assert sum(end - start for _, start, end in asked(bodies(server))) < total


# One thread fails while others are at work.


def test_stopping_does_no_harm_to_who_has_the_last_bytes_in_hand(lock, server):
    """Its connection went back to its pool already, while the bytes are hashed and written."""
    reader = WebReader(QUICK)
    path = f"/w/{lock.files[0].path}" if lock.split else "/w.tar"
    file = reader.probe(f"{server.url}{path}")
    chunks = reader.read(file, 0, file.size)
    assert len(next(chunks)) == file.size
    reader.stop()
    chunks.close()


def test_an_error_does_not_wait_for_stalled_connections(lock, server, around, files):
    """A 404 comes while another connection waits for the rest of its bytes."""
    settings = dataclasses.replace(QUICK, stall_seconds=20.0)

    def after_the_stall(answer: faults.Answer, request: Request) -> faults.Answer:
        assert server.stalled.wait(30)
        return faults.status(404)(answer, request)

    server.fault(faults.stall, when=lambda request: len(bodies(server)) == 4, times=1)
    server.fault(after_the_stall, when=lambda request: len(bodies(server)) > 4)
    start = time.monotonic()
    error = install_or_error(around, lock, files, engine="builtin", settings=settings)
    assert "HTTP 404" in str(error)
    assert time.monotonic() - start < settings.stall_seconds


def test_a_full_disk_is_told_and_leaves_no_half(lock, server, around, files, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(OperationError, match="No space left"):
        install(lock, around.destination, engine="builtin", settings=QUICK)
    monkeypatch.undo()
    around.check_nothing_installed()
    assert install_or_error(around, lock, files, engine="builtin") is None
