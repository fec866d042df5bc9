"""`cogvideox sample --ray` with the real pipeline of nano: what is killed changes no byte.

Each run starts a cluster and processes that import all of torch: all of it is slow. The fast twin
is in test_ray_cluster.py: the real pipeline of a tiny model on that file's one cluster.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cli.main import main
from cli.nano import CHECKPOINTS, convert_nano

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [
    f"a {colour} {shape} moving {direction}"
    for colour in ("red", "green", "blue", "yellow")
    for shape in ("circle", "square", "triangle")
    for direction in ("left", "right", "up", "down")
]
FEW, MANY = 8, 40
# For a cluster that is there already.
TOKEN = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    "RAY_USAGE_STATS_ENABLED": "0",
}


def command(prompts, out, *more):
    steps = ("--num-inference-steps", "2")
    return ["sample", str(prompts), str(out), "--weights", str(CHECKPOINTS / "nano"), *steps, *more]


def prompt_file(folder, count):
    path = folder / f"{count}.txt"
    path.write_text("".join(f"{prompt}\n" for prompt in PROMPTS[:count]))
    return path


@pytest.fixture(scope="module")
def prompts_and_videos(tmp_path_factory):
    """Prompt files of some length, and the videos that a single process makes of them."""
    convert_nano("nano", CHECKPOINTS)
    folder = tmp_path_factory.mktemp("alone")
    made = {}

    def make(count):
        if count not in made:
            prompts = prompt_file(folder, count)
            assert main(command(prompts, folder / f"out{count}")) == 0
            made[count] = prompts, videos(folder / f"out{count}")
        return made[count]

    return make


def environment(**more):
    """This process's, without what other tests have told Ray."""
    return {name: v for name, v in os.environ.items() if not name.startswith("RAY_")} | more


def videos(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".mp4"}


def records(out):
    """What is in the manifest, of each line of it that is whole."""
    path = out / "manifest.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


class Driver:
    """`cogvideox sample --ray` as a process of a group of its own; its cluster: of `nodes`."""

    def __init__(self, prompts, out, *more, nodes=()):
        self.out = out
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", *command(prompts, out, "--ray", *more)],
            cwd=ROOT,
            env=environment(**TOKEN if nodes else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._above = [self._process, *(node.process for node in nodes)]
        self._below = set()

    def wait_until_done(self, count):
        """Come back when `count` clips are recorded, and an actor is at work on another."""
        deadline = time.monotonic() + 200
        while len(records(self.out)) < count or not self.actors(".sample"):
            assert self._process.poll() is None, self._process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def actors(self, doing=""):
        for process in self._above:
            with suppress(psutil.NoSuchProcess):
                self._below.update(psutil.Process(process.pid).children(recursive=True))
        return [p for p in self._below if f"ray::PipelineActor{doing}" in title_of(p)]

    def folders(self):
        """Those of the clusters that it started."""
        return list(Path("/tmp").glob(f"cogvideox-*/ray/session_*_{self._process.pid}"))

    def send(self, number, *, group=False):
        (os.killpg if group else os.kill)(self._process.pid, number)

    def end(self):
        """The exit code and both outputs; nothing that it started runs any longer."""
        stdout, stderr = self._process.communicate(timeout=250)
        if len(self._above) == 1:
            # Some of Ray's own look for their parent every few seconds.
            _, alive = psutil.wait_procs(self._below, timeout=120)
            assert alive == []
        return self._process.returncode, stdout, stderr


def title_of(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture
def driver():
    """Starts drivers, and ends those that a failed test leaves, with all that they started."""
    started = []

    def start(*arguments, **more):
        started.append(Driver(*arguments, **more))
        return started[-1]

    yield start
    for each in started:
        if each._process.poll() is None:
            each.actors()
            each.send(signal.SIGKILL, group=True)
            each.end()
        for folder in each.folders():  # of those that were killed
            shutil.rmtree(folder.parents[1])


@pytest.mark.parametrize("count", [FEW, MANY])
def test_a_killed_worker_changes_no_byte(prompts_and_videos, driver, tmp_path, count):
    prompts, expected = prompts_and_videos(count)
    out = tmp_path / "clips"
    running = driver(prompts, out, "--workers", "2")
    running.wait_until_done(2)
    os.kill(running.actors(".sample")[0].pid, signal.SIGKILL)
    code, stdout, stderr = running.end()

    assert (code, stdout) == (0, f"{out / 'manifest.jsonl'}\n"), stderr
    assert "died and is replaced" in stderr
    assert videos(out) == expected
    assert sorted(r["line"] for r in records(out)) == list(range(1, count + 1))
    assert {r["error"] for r in records(out)} == {None}
    assert {p.name for p in out.iterdir()} == {*expected, "manifest.jsonl"}


def test_a_killed_driver_goes_on_with_what_is_missing(prompts_and_videos, driver, tmp_path):
    prompts, expected = prompts_and_videos(MANY)
    out = tmp_path / "clips"
    running = driver(prompts, out, "--workers", "2")
    running.wait_until_done(5)
    running.send(signal.SIGKILL)
    code, *_ = running.end()
    before = records(out)
    again = driver(prompts, out, "--workers", "2")
    again.wait_until_done(len(before) + 1)
    code_again, _, stderr = again.end()

    assert (code, code_again) == (-signal.SIGKILL, 0), stderr
    assert 5 <= len(before) < MANY
    assert records(out)[: len(before)] == before
    assert f"{MANY - len(before)} clips made, {len(before)} there before" in stderr
    assert sorted(r["line"] for r in records(out)) == list(range(1, MANY + 1))
    assert videos(out) == expected


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_an_interrupted_run_leaves_nothing_running(
    prompts_and_videos, driver, tmp_path, number, group
):
    """Ctrl-C goes to all of a terminal's processes, Ray's own among them."""
    prompts, expected = prompts_and_videos(FEW)
    out = tmp_path / "clips"
    running = driver(prompts, out, "--workers", "2")
    running.wait_until_done(1)
    running.send(number, group=group)
    code, _, stderr = running.end()

    assert code == 130, stderr
    assert "The same command goes on" in stderr
    assert running.folders() == []
    assert {name: expected[name] for name in videos(out)} == videos(out)
    assert {p.suffix for p in out.iterdir()} == {".mp4", ".jsonl"}


class Node:
    """A machine of a cluster, with one core for workers: `ray start --block`."""

    def __init__(self, *options):
        ray = Path(sys.executable).with_name("ray")
        self.process = subprocess.Popen(
            [ray, "start", "--block", "--num-cpus=1", "--num-gpus=0", *options],
            env=environment(**TOKEN),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        said = []
        for line in self.process.stdout:
            said.append(line)
            if "--block" in line:  # the heading of what it says last
                break
        assert self.process.poll() is None, "".join(said)
        self._reader = threading.Thread(target=self.process.stdout.read)
        self._reader.start()

    def kill(self):
        """As if its power were gone."""
        with suppress(psutil.NoSuchProcess):
            processes = psutil.Process(self.process.pid).children(recursive=True)
            for process in (psutil.Process(self.process.pid), *processes):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=30)
        self.process.wait(timeout=30)
        self._reader.join(timeout=30)
        self.process.stdout.close()


@pytest.fixture
def two_nodes():
    """The address of a cluster of two machines, and these."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder, socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        held.close()
        head = ("--head", f"--port={address.partition(':')[2]}", "--include-dashboard=false")
        nodes = [Node(*head, f"--temp-dir={folder}/ray")]
        try:
            nodes.append(Node(f"--address={address}"))
            yield address, nodes
        finally:
            for node in reversed(nodes):
                node.kill()


def test_a_lost_machine_changes_no_byte(prompts_and_videos, driver, two_nodes, tmp_path):
    """One worker per machine; when one machine is gone, the other does the rest."""
    prompts, expected = prompts_and_videos(FEW)
    address, nodes = two_nodes
    out = tmp_path / "clips"
    running = driver(prompts, out, address, nodes=nodes)
    running.wait_until_done(2)
    below_second = psutil.Process(nodes[1].process.pid).children(recursive=True)
    assert any("ray::PipelineActor" in title_of(process) for process in below_second)
    nodes[1].kill()
    code, _, stderr = running.end()

    assert code == 0, stderr
    assert "died and is replaced" in stderr
    assert videos(out) == expected
    assert sorted(r["line"] for r in records(out)) == list(range(1, FEW + 1))
