"""Actors on a real Ray cluster of this machine, with a stub for the pipeline: who gets what, and
what happens when one dies. The clips are a line of text, but for one test; more of the real
pipeline is in test_ray_sample.py. Each worker takes a second to start: what is slow needs new ones.
"""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from predictors.request import validate
from sampling import ray_cluster
from sampling.clip_job import ClipJob, WorkUnit
from sampling.clip_sampler import SamplerSettings
from sampling.manifest import Record
from sampling.ray_cluster import DEATHS, RayExecutor
from sampling.ray_connection import connected
from sampling.run import sample_prompts
from tests.sampling.sampling_runs import (
    prepared,
    prompt_file,
    records,
    videos,
    without_seconds,
)
from weights.errors import OperationError, UserError
from weights.variants import VARIANTS

# Of Ray's own: it leaves the pipes of the processes that it starts to garbage collection.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


class StubSampler:
    """Writes a clip's prompt and seed as its file. A prompt may ask it to behave badly."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def sample(self, unit, embeddings):
        return [self._record(job, embeddings) for job in unit.jobs if job.line in unit.missing]

    def close(self):
        (self.out / f"closed-{os.getpid()}").touch()

    def _record(self, job, embeddings):
        word, _, times = job.request.prompt.partition(" ")
        if word == "die" and deaths_of(self.out, job.line) < int(times):
            (self.out / f"death-{job.line}-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "wait":
            threading.Event().wait()
        if word == "full":
            raise OperationError("The disk is full.", "Line 3 did not fit.", "Make room.")
        if word == "bug":
            raise ZeroDivisionError("of the stub")
        (self.out / job.name).write_text(f"{job.request.prompt} {job.request.seed} {embeddings}")
        return record(job, file=job.name, note=str(os.getpid()))


def deaths_of(out, line):
    return len(list(out.glob(f"death-{line}-*")))


def record(job, *, file, note):
    return Record(
        line=job.line,
        prompt=job.request.prompt,
        image=None,
        seed=job.request.seed,
        settings={"worker": note},
        key=job.key,
        file=file,
        digest="sha256:0",
        bytes=1,
        seconds=0.1,
        error=None,
    )


def load(settings):
    return StubSampler(Path(settings.out))


def load_never(settings):
    raise UserError("There are no weights.", "A folder is expected.", "Correct the path.")


def load_dying(settings):
    os.kill(os.getpid(), signal.SIGKILL)


def units(*prompts):
    for line, prompt in enumerate(prompts, 1):
        request = validate(VARIANTS["nano"], prompt=prompt, seed=line)
        job = ClipJob(line=line, request=request, image=None, sat_sampler=None, key=f"k{line}")
        yield WorkUnit(number=line, jobs=(job,), missing=frozenset({line})), f"e{line}"


@pytest.fixture(scope="module")
def cluster():
    """One cluster for all tests: it takes seconds to start."""
    before = dict(os.environ)
    with connected(None, 2) as found:
        import ray

        # Workers don't find this module by its name.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield found
    os.environ.clear()
    os.environ.update(before)
    assert not processes_in(found.folder)
    assert not found.folder.exists()


def processes_in(folder):
    """Processes whose command line names `folder`, as all of a cluster's do but its workers."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in lines.splitlines() if str(folder) in line]


@pytest.fixture
def on_cluster(cluster, monkeypatch):
    """Executors use the cluster that runs."""

    @contextmanager
    def running(address, workers):
        yield dataclasses.replace(cluster, workers=workers or cluster.workers)

    monkeypatch.setattr(ray_cluster, "connected", running)


@pytest.fixture
def executor(on_cluster, tmp_path):
    """Makes executors with stubs."""
    made = []

    def make(workers=2, load=load):
        settings = SamplerSettings(weights="nano", task="t2v", out=str(tmp_path))
        made.append(RayExecutor(settings, workers=workers, load=load))
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert not list(tmp_path.glob(".probe*"))


def by_line(results):
    return {each.line: each for records in results for each in records}


def test_all_units_come_back_from_all_workers(executor, tmp_path):
    found = by_line(executor().results(units(*"abcdefghij")))

    assert sorted(found) == list(range(1, 11))
    assert {(tmp_path / r.file).read_text() for r in found.values()} == {
        f"{prompt} {line} e{line}" for line, prompt in enumerate("abcdefghij", 1)
    }
    assert all(r.error is None for r in found.values())


@pytest.mark.usefixtures("on_cluster")
def test_videos_of_the_real_pipeline_are_those_of_one_process(tiny_folder, tmp_path):
    prompts = prompt_file(tmp_path, 2)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    sample_prompts(prepared(tiny_folder, prompts, alone))

    summary = sample_prompts(
        prepared(tiny_folder, prompts, shared), lambda run: RayExecutor(run.settings, workers=1)
    )

    assert (summary.made, summary.failed) == (2, {})
    assert videos(shared) == videos(alone)
    assert {p.name for p in shared.iterdir()} == {*videos(alone), "manifest.jsonl"}
    assert without_seconds(records(shared)) == without_seconds(records(alone))


@pytest.mark.slow
def test_units_are_taken_as_workers_get_free(executor):
    taken = []

    def watched():
        for unit, embeddings in units(*"abcdefgh"):
            taken.append(unit.number)
            yield unit, embeddings

    for done, _ in enumerate(executor().results(watched()), 1):
        assert len(taken) <= done + 2


@pytest.mark.slow
def test_nothing_to_do_starts_no_worker(executor):
    ray_executor = executor(load=load_never)

    assert list(ray_executor.results(iter(()))) == []


def test_a_dead_worker_is_replaced_and_its_unit_done_again(executor, tmp_path, capsys):
    found = by_line(executor().results(units("a", "die 2", "c", "die 1", "e")))

    assert {line: r.error for line, r in found.items()} == dict.fromkeys(range(1, 6))
    assert (deaths_of(tmp_path, 2), deaths_of(tmp_path, 4)) == (2, 1)
    assert capsys.readouterr().err.count("died and is replaced") == 3


@pytest.mark.slow
def test_a_unit_that_kills_its_workers_fails_alone(executor, tmp_path):
    found = by_line(executor(workers=1).results(units("a", "die 9", "c")))

    assert sorted(found) == [1, 2, 3]
    assert [found[line].error for line in (1, 3)] == [None, None]
    assert f"died {DEATHS} times" in found[2].error
    assert (found[2].file, found[2].key) == (None, "k2")
    assert found[2].seed == 2
    assert deaths_of(tmp_path, 2) == DEATHS


@pytest.mark.slow
def test_what_a_worker_refuses_ends_the_run(executor):
    with pytest.raises(UserError, match=r"On .*: There are no weights") as raised:
        list(executor(load=load_never).results(units("a", "b")))

    assert raised.value.exit_code == 2
    assert raised.value.remedy == "Correct the path."


@pytest.mark.slow
def test_a_full_disk_ends_the_run(executor):
    with pytest.raises(OperationError, match="The disk is full") as raised:
        list(executor().results(units("a", "b", "full", "d")))

    assert raised.value.exit_code == 1


@pytest.mark.slow
def test_an_unforeseen_error_is_not_taken_for_a_death(executor):
    with pytest.raises(ZeroDivisionError, match="of the stub"):
        list(executor().results(units("bug")))


@pytest.mark.slow
def test_workers_that_never_load_end_the_run(executor, capsys):
    with pytest.raises(OperationError, match="Every worker died while it loaded"):
        list(executor(workers=1, load=load_dying).results(units("a")))

    assert capsys.readouterr().err.count("Worker 1 died") == DEATHS


@pytest.mark.slow
def test_a_worker_that_does_not_see_out_ends_the_run(executor, tmp_path):
    ray_executor = executor()
    for probe in tmp_path.glob(".probe*"):
        probe.unlink()

    with pytest.raises(UserError, match="all machines must see the same folder"):
        list(ray_executor.results(units("a")))


@pytest.mark.slow
def test_workers_are_let_go_after_the_last_unit(executor, tmp_path):
    ray_executor = executor(workers=1)
    (only,) = by_line(ray_executor.results(units("a"))).values()
    ray_executor.close()

    assert (tmp_path / f"closed-{only.settings['worker']}").exists()


@pytest.mark.slow
def test_busy_workers_are_ended_at_once(executor, tmp_path):
    ray_executor = executor()
    results = ray_executor.results(units("wait", "b"))
    next(results)
    ray_executor.close()

    assert not list(tmp_path.glob("closed-*"))


def test_the_cluster_is_this_machine_s_only(cluster):
    """Whoever reaches Ray's ports runs code: they are on the loopback address."""
    import ray

    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert cluster.folder.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("address", ["ray://head:10001", "http://127.0.0.1:8265"])
def test_an_address_of_another_kind_is_refused(address):
    with pytest.raises(UserError, match="HOST:PORT"), connected(address, None):
        pass


@pytest.mark.timeout(60)
def test_a_head_that_is_not_there_is_said_at_once():
    """Ray itself tries for many minutes, and says nothing but warnings of its own."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # without `listen` it refuses whoever comes
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(UserError, match=r"connecting there failed: .*refused\. The address"):
            connected(address, None).__enter__()


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", f"{'x' * 70}.test:1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UserError, match="connecting there failed"):
        connected(address, None).__enter__()


def test_no_workers_are_refused():
    with pytest.raises(UserError, match="--workers is 0"), connected(None, 0):
        pass


def test_more_workers_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("sampling.ray_connection._gpus_here", lambda: 2)
    with pytest.raises(UserError, match="--workers is 3, and this machine has 2 GPUs"):
        connected(None, 3).__enter__()


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install"), connected(None, 1):
        pass
