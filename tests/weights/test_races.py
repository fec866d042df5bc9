"""Processes that install at once, and one is killed at any moment: whole installs, no leftovers.

RACE_ROUNDS=100 pytest tests/weights/test_races.py     the long version; by default it is short
"""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.weights.fetching import faults
from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.fetching.hostile_tars import Files, honest_tar
from tests.weights.install_runner import INSTALLED, InstallRunner, mount_namespace
from tests.weights.surroundings import (
    QUICK,
    Surroundings,
    in_many_pieces,
    pinned_lock,
    split_lock,
    unpinned_lock,
)
from weights.install_check import verify_install
from weights.lock import Lock, write_lock

PATIENT = dataclasses.replace(QUICK, stall_seconds=60.0)
ROUNDS = int(os.environ.get("RACE_ROUNDS", "6"))
# An install has some 100 steps; the short version kills at some of them.
EVERY = 1 if "RACE_ROUNDS" in os.environ else 9
KILLED = -signal.SIGKILL


@pytest.fixture
def files(files: Files) -> Files:
    return in_many_pieces(files)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def runner() -> Iterator[InstallRunner]:
    runner = InstallRunner()
    yield runner
    runner.close()


@pytest.fixture
def locks(server: FaultyServer, files: Files, quick_path: Path) -> dict[str, Path]:
    """Lock files by kind."""
    tar = honest_tar(files)
    web = pinned_lock(tar, files, server.serve("/w.tar", tar.data))
    for path, data in files.items():
        server.serve(f"/w/{path}", data)
    (quick_path / "w.tar").write_bytes(tar.data)
    kinds: dict[str, Lock] = {
        "web": web,
        "split": split_lock(web, f"{server.url}/w/"),
        "unpinned": unpinned_lock(f"{server.url}/w.tar"),
        "local": pinned_lock(tar, files, (quick_path / "w.tar").as_uri()),
    }
    for kind, lock in kinds.items():
        write_lock(lock, quick_path / f"{kind}.json")
    return {kind: quick_path / f"{kind}.json" for kind in kinds}


def check_whole_or_absent(destination: Path) -> None:
    """Also right after a kill: what has a marker is an install."""
    if (destination / ".install.json").exists():
        verify_install(destination)


def race(
    runner: InstallRunner,
    server: FaultyServer,
    lock_file: Path,
    around: Surroundings,
    chance: random.Random,
    *,
    mount_point: bool = False,
) -> list[int]:
    """Three installs at once; one dies at a byte of the server, or at a step on the disk."""
    log = around.folder.parent / "log"
    by_bytes = chance.random() < 0.5
    victim = chance.randrange(3)
    # An install asks for some 45,000 bytes.
    byte, step = server.sent + chance.randrange(45_000), chance.randrange(1, 100)
    processes = [
        runner.start(
            lock_file,
            around.destination,
            log,
            settings=QUICK,
            mount_point=mount_point,
            die_at=step if number == victim and not by_bytes else None,
        )
        for number in range(3)
    ]
    if by_bytes:
        server.when_sent(byte, lambda: os.kill(processes[victim], signal.SIGKILL))
    exits = [runner.wait(process) for process in processes]
    server.forget_triggers()
    survivors = [code for number, code in enumerate(exits) if number != victim]
    assert survivors == [INSTALLED] * 2, log.read_text()
    assert exits[victim] in (INSTALLED, KILLED), log.read_text()
    return exits


@pytest.mark.parametrize("kind", ["web", "split", "unpinned"])
def test_of_three_that_race_one_is_killed(
    runner, server, locks, files, quick_path, kind, record_property
):
    chance = random.Random(kind)
    killed = 0
    for number in range(ROUNDS):
        around = Surroundings(quick_path / f"{number}" / "place")
        killed += KILLED in race(runner, server, locks[kind], around, chance)
        around.check_installed(files)
        shutil.rmtree(around.folder)
    record_property("killed", killed)
    assert killed >= ROUNDS // 4


def test_of_three_that_race_to_a_mount_point_one_is_killed(
    runner, server, locks, files, quick_path
):
    chance = random.Random("mount point")
    for number in range(ROUNDS // 2):
        around = Surroundings(quick_path / f"{number}" / "place")
        around.destination.mkdir()
        race(runner, server, locks["web"], around, chance, mount_point=True)
        around.check_installed_inside(files)
        shutil.rmtree(around.folder)


# One process, killed at each of its steps.


@pytest.mark.parametrize("inside", [False, True], ids=["beside", "inside"])
@pytest.mark.parametrize("kind", ["local", "web", "unpinned"])
def test_killed_at_any_step_it_leaves_no_half(runner, locks, files, quick_path, kind, inside):
    """And the next install is right, with no leftover."""
    step, status = random.Random(f"{kind} {inside}").randrange(EVERY) + 1, KILLED
    while status == KILLED:
        around = Surroundings(quick_path / f"{step}" / "place")
        if inside:
            around.destination.mkdir()
        arguments = (locks[kind], around.destination, quick_path / "log")
        options = {"settings": QUICK, "mount_point": inside}
        status = runner.install(*arguments, die_at=step, **options)
        assert status in (INSTALLED, KILLED), (quick_path / "log").read_text()
        around.check()
        check_whole_or_absent(around.destination)
        assert runner.install(*arguments, **options) == INSTALLED, (quick_path / "log").read_text()
        check = around.check_installed_inside if inside else around.check_installed
        check(files)
        shutil.rmtree(around.folder)
        step += EVERY
    assert step > 30


@pytest.mark.parametrize("inside", [False, True], ids=["beside", "inside"])
def test_killed_at_any_step_of_a_replacement_it_leaves_no_half(
    runner, server, locks, files, quick_path, inside
):
    """An install of other weights is there: no byte of it is lost."""
    old_files = {path: data.replace(b"1", b"2") for path, data in files.items()}
    old_tar = honest_tar(old_files)
    (quick_path / "old.tar").write_bytes(old_tar.data)
    old = quick_path / "old.json"
    write_lock(pinned_lock(old_tar, old_files, (quick_path / "old.tar").as_uri()), old)
    step, status = random.Random(inside).randrange(EVERY) + 1, KILLED
    while status == KILLED:
        around = Surroundings(quick_path / f"{step}" / "place")
        if inside:
            around.destination.mkdir()
        arguments = (around.destination, quick_path / "log")
        options = {"settings": QUICK, "mount_point": inside}
        assert runner.install(old, *arguments, **options) == INSTALLED
        status = runner.install(locks["local"], *arguments, die_at=step, **options)
        assert status in (INSTALLED, KILLED), (quick_path / "log").read_text()
        check_whole_or_absent(around.destination)
        assert runner.install(locks["local"], *arguments, **options) == INSTALLED
        assert around.take_what_was_set_aside() == old_files
        check = around.check_installed_inside if inside else around.check_installed
        check(files)
        shutil.rmtree(around.folder)
        step += EVERY
    assert step > 30


def test_who_waits_for_one_that_is_killed_at_any_step_leaves_nothing_of_it(
    runner, server, locks, files, quick_path
):
    # From where it asks the server for the first byte.
    step, exits = random.Random("waiting").randrange(15, 15 + EVERY), [KILLED]
    while exits[0] == KILLED:
        around = Surroundings(quick_path / f"{step}" / "place")
        waits, began = quick_path / f"{step}" / "waits", threading.Event()
        goes_on = threading.Event()
        os.mkfifo(waits)
        server.fault(faults.doing(lambda: (began.set(), goes_on.wait(30))), times=1)  # noqa: B023
        arguments = (locks["web"], around.destination)
        first = runner.start(*arguments, quick_path / "log", settings=PATIENT, die_at=step)
        assert began.wait(30)
        second = runner.start(*arguments, waits, settings=PATIENT)
        with waits.open() as log:
            assert any("waiting for it" in line for line in log)
            goes_on.set()
            exits = [runner.wait(first), runner.wait(second)]
        server.heal()
        assert exits[0] in (INSTALLED, KILLED), (quick_path / "log").read_text()
        assert exits[1] == INSTALLED
        around.check_installed(files)
        shutil.rmtree(around.folder)
        step += EVERY
    assert step > 30


# Real mount points.


def namespace_problem() -> str | None:
    """Why no private mounts can be made here."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    script = "mount -t tmpfs none /mnt"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True
    )
    return None if done.returncode == 0 else f"mounting is not allowed: {done.stderr.strip()}"


@pytest.fixture(params=["tmpfs", "bind"])
def mounted(request, quick_path: Path) -> Iterator[tuple[InstallRunner, list[Surroundings]]]:
    """Destinations that are mount points, for the processes of the runner."""
    problem = namespace_problem()
    if problem:
        pytest.skip(problem)
    places = [
        Surroundings(quick_path / f"{number}" / "place") for number in range(max(3, ROUNDS // 4))
    ]
    for around in places:
        around.destination.mkdir()
    folders = [around.destination for around in places]
    runner = InstallRunner(*mount_namespace(folders, request.param))
    yield runner, places
    runner.close()


def test_of_three_that_race_to_a_real_mount_point_one_is_killed(mounted, server, locks, files):
    runner, places = mounted
    chance = random.Random("real mount point")
    for around in places:
        race(runner, server, locks["web"], around, chance)
        around.seen_from(runner.root).check_installed_inside(files)
        assert not list(around.destination.iterdir()), "it was no mount point"
        # Once more: what is there is kept.
        sent = server.sent
        race(runner, server, locks["web"], around, chance)
        assert server.sent == sent
