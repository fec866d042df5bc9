"""How pget is called and watched; what it may do to the weights is in test_pget_faults.py."""

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.weights.surroundings import QUICK, check_message
from weights.errors import OperationError
from weights.fetching.pget import download

URL = "http://example.org/w.tar"
SETTINGS = dataclasses.replace(QUICK, stall_seconds=0.3)


@pytest.fixture
def pget(tmp_path, monkeypatch) -> Callable[[str], None]:
    """Make the lines of a shell script `pget`; in them $target is the last argument."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def make(lines: str) -> None:
        program = tmp_path / "bin" / "pget"
        program.write_text(f'#!/bin/sh\nfor target; do :; done\ncd "{tmp_path}"\n{lines}\n')
        program.chmod(0o755)

    return make


@pytest.fixture
def target(tmp_path) -> Path:
    (tmp_path / "staging").mkdir()
    return tmp_path / "staging" / "weights.tar"


def run(target: Path) -> list[int]:
    steps: list[int] = []
    download(URL, target, SETTINGS, steps.append)
    return steps


def failure(target: Path) -> str:
    with pytest.raises(OperationError) as caught:
        run(target)
    check_message(caught.value)
    assert str(caught.value).startswith(f"pget failed to download {URL} (")
    return caught.value.given.partition("(")[2].removesuffix(").")


def test_its_arguments_are_these(pget, target, tmp_path):
    pget('printf "%s\\n" "$@" >arguments; echo x >"$target"')
    run(target)
    assert (tmp_path / "arguments").read_text().splitlines() == [
        "--log-level=warn",
        "-m",
        "16M",
        "-c",
        "8",
        "--pid-file",
        str(target.parent / "pget.pid"),
        URL,
        str(target),
    ]


@pytest.fixture
def our_input() -> Iterator[None]:
    """Something to read on our standard input."""
    before, (reading, writing) = os.dup(0), os.pipe()
    os.write(writing, b"ours")
    os.dup2(reading, 0)
    os.close(writing)
    yield
    os.dup2(before, 0)
    os.close(before)
    os.close(reading)


def test_it_reads_no_input_and_its_output_is_not_ours(pget, target, tmp_path, capfd, our_input):
    pget('cat >input; echo hello; echo x >"$target"')
    run(target)
    assert (tmp_path / "input").read_bytes() == b""
    assert capfd.readouterr() == ("", "")


def test_what_the_file_grew_is_told(pget, target, tmp_path):
    """The script goes on when it was told, each time."""
    os.mkfifo(tmp_path / "told 3")
    os.mkfifo(tmp_path / "told 2")
    pget('printf 123 >"$target"; read x <"told 3"; printf 45 >>"$target"; read x <"told 2"')
    steps: list[int] = []

    def tell(count: int) -> None:
        if count:
            steps.append(count)
            (tmp_path / f"told {count}").write_text("go on\n")

    download(URL, target, dataclasses.replace(SETTINGS, stall_seconds=30.0), tell)
    assert steps == [3, 2]
    assert target.read_text() == "12345"


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ('echo x >"$target"; exit 3', "exit status 3"),
        ('echo x >"$target"; kill -9 $$', "killed by signal 9"),
        ("exit 0", "it ended well and left no file"),
        ('mkdir "$target"', "it ended well and left no file"),
    ],
)
def test_a_bad_end_is_said(pget, target, lines, what):
    pget(lines)
    assert failure(target) == what


def test_no_pget_is_said(target, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert failure(target) == "there is no pget on PATH"


def test_a_program_of_another_machine_is_said(pget, target, tmp_path, monkeypatch):
    """With setpriv it is that which fails to start it."""
    (tmp_path / "bin" / "pget").write_bytes(b"\x7fELF no program")
    (tmp_path / "bin" / "pget").chmod(0o755)
    if shutil.which("setpriv"):
        assert failure(target).startswith("exit status")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert failure(target) == "Exec format error"


def is_gone(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


# What ignores SIGTERM hands that on to its children.
STUCK = 'trap "" TERM; sleep 1000 & echo $! >child; echo $$ >self; echo x >"$target"; wait'


def left_running(folder: Path) -> list[str]:
    names = [name for name in ("self", "child") if not is_gone(int((folder / name).read_text()))]
    deadline = time.monotonic() + 5
    while names and time.monotonic() < deadline:  # a killed child is init's to bury
        names = [name for name in names if not is_gone(int((folder / name).read_text()))]
    return names


def test_a_pget_in_which_nothing_happens_is_killed_with_its_children(pget, target, tmp_path):
    pget(STUCK)
    start = time.monotonic()
    assert failure(target) == "no byte for 0.3 s"
    assert time.monotonic() - start > 0.3
    assert left_running(tmp_path) == []


def test_so_it_is_when_we_are_interrupted(pget, target, tmp_path):
    pget(STUCK)

    def interrupt(count: int) -> None:
        if count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(URL, target, SETTINGS, interrupt)
    assert left_running(tmp_path) == []


def test_a_slow_one_that_still_reads_is_not_killed(pget, target):
    """The file grows only at the end, long after a stall would be one."""
    pget('for i in 1 2 3 4 5 6 7 8; do sleep 0.1; read line </proc/uptime; done; echo x >"$target"')
    start = time.monotonic()
    run(target)
    assert time.monotonic() - start > 2 * SETTINGS.stall_seconds


def test_interrupting_the_terminal_does_not_reach_it(pget, target, tmp_path):
    """It has a session of its own, so that only we end it."""
    pget('echo $$ >self; echo x >"$target"; cut -d" " -f6 /proc/$$/stat >session')
    run(target)
    assert (tmp_path / "session").read_text() == (tmp_path / "self").read_text()
    assert int((tmp_path / "session").read_text()) != os.getsid(0)
