"""Units sampled by pipeline actors on a Ray cluster, which are replaced when they die."""

import dataclasses
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampling.clip_job import WorkUnit
from sampling.clip_record import failed_record
from sampling.clip_sampler import ClipSampler, SamplerSettings
from sampling.out_probe import probe_in
from sampling.ray_actor import Load, PipelineActor, Refusal
from sampling.ray_connection import connected
from weights.errors import OperationError
from weights.variants import VARIANTS

if TYPE_CHECKING:
    from sampling.manifest import Record
    from sampling.prompt_encoding import UnitEmbeddings

# How often a worker may die while it samples a unit until that unit is left; and how often in
# succession while it loads, until it is no longer replaced.
DEATHS = 3
# Seconds between lines that say that no worker is there yet.
_PATIENCE = 60.0
# Characters of Ray's reason for a death that are shown.
_CAUSE = 300
# Seconds that workers have for removing their scratch files.
_LAST_WORDS = 5.0


@dataclass(slots=True, eq=False)
class _Task:
    unit: WorkUnit
    embeddings: "UnitEmbeddings"
    deaths: int = 0


@dataclass(slots=True, eq=False)
class _Worker:
    """An actor and the one call it is at: it loads, or samples `task`, or is idle (None, None)."""

    number: int
    actor: Any
    call: Any
    task: _Task | None = None
    loaded: bool = False
    loading_deaths: int = 0

    @property
    def idle(self) -> bool:
        return self.loaded and self.task is None


class RayExecutor:
    """Samples units on a Ray cluster: an `Executor`, one loaded pipeline per worker.

    A worker gets its next unit when it has answered with the records of the last, so that only one
    unit's embeddings per worker are in memory. Its process or machine may die: another takes its
    place when there is room for it, and the unit is sampled again. Seeds and batches don't depend
    on who samples: the files are the same.
    """

    def __init__(
        self,
        settings: SamplerSettings,
        *,
        address: str | None = None,
        workers: int | None = None,
        load: Load = ClipSampler.load,
    ) -> None:
        """Connect to the cluster at `address`, or start one on this machine; see `connected`.

        Raises:
            UserError: Ray is not installed, or there is no such cluster.
            OperationError: Ray can't be started here.
        """
        self._stack = ExitStack()
        self._workers: list[_Worker] = []
        self._again: deque[_Task] = deque()
        self._load = load
        with ExitStack() as stack:
            self._cluster = stack.enter_context(connected(address, workers))
            self._settings = _for_other_processes(settings, folder=self._cluster.folder)
            self._probe = stack.enter_context(probe_in(self._settings.out))
            self._stack = stack.pop_all()

    def results(
        self, units: "Iterable[tuple[WorkUnit, UnitEmbeddings]]"
    ) -> "Iterator[list[Record]]":
        """The records of each unit, in the order in which they are done.

        A unit on which workers died `DEATHS` times comes back as failed.

        Raises:
            UserError: a worker can't use OUT or the weights.
            OperationError: a worker has no space left, or all die while they load.
        """
        import ray

        source = iter(units)
        while self._hand_out(source):
            calls = {worker.call: worker for worker in self._workers if worker.call is not None}
            done, _ = ray.wait(list(calls), num_returns=1, timeout=_PATIENCE)
            if not done and not any(worker.loaded for worker in self._workers):
                self._tell_of_waiting()
            for call in done:
                records = self._answer(calls[call])
                if records is not None:
                    yield records

    def close(self) -> None:
        """End the workers whatever they do, and the cluster if it was started here."""
        import ray

        try:
            # After an interruption nobody waits for a step that may take a minute.
            if not any(worker.task for worker in self._workers):
                self._let_go()
            for worker in self._workers:
                ray.kill(worker.actor)
            self._workers.clear()
        finally:
            self._stack.close()

    def _let_go(self) -> None:
        import ray

        calls = [worker.actor.close.remote() for worker in self._workers if worker.loaded]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=_LAST_WORDS)

    def _hand_out(self, source: "Iterator[tuple[WorkUnit, UnitEmbeddings]]") -> bool:
        """Give units to those who have none; False: all have come back and there are no more."""
        if not self._again and not any(worker.task for worker in self._workers):
            # Nothing is on its way, and who might ask for more may still be loading.
            following = next(source, None)
            if following is None:
                return False
            self._again.append(_Task(*following))
        if not self._workers:
            self._workers = [self._hired(n) for n in range(1, self._cluster.workers + 1)]
        for worker in self._workers:
            if worker.idle and (task := self._next(source)) is not None:
                worker.task = task
                worker.call = worker.actor.sample.remote(task.unit, task.embeddings)
        return True

    def _next(self, source: "Iterator[tuple[WorkUnit, UnitEmbeddings]]") -> _Task | None:
        if self._again:
            return self._again.popleft()
        following = next(source, None)
        return None if following is None else _Task(*following)

    def _hired(self, number: int, *, loading_deaths: int = 0) -> _Worker:
        import ray

        actor = (
            ray.remote(PipelineActor)
            # What is done about a death is decided here, not by Ray: it knows no limit per unit.
            .options(
                num_cpus=1,
                num_gpus=self._cluster.gpus_per_worker,
                max_restarts=0,
                max_task_retries=0,
            )
            .remote()
        )
        call = actor.load.remote(self._load, self._settings, self._probe)
        return _Worker(number, actor, call, loading_deaths=loading_deaths)

    def _answer(self, worker: _Worker) -> "list[Record] | None":
        """Take what the call of `worker` came to: records, or None where there are none yet."""
        import ray

        try:
            answer = ray.get(worker.call)
        except ray.exceptions.RayTaskError:  # an error of ours that nobody foresaw
            raise
        except ray.exceptions.RayError as error:
            return self._replaced(worker, _cause(error))
        if isinstance(answer, Refusal):
            raise answer.error()
        worker.call, worker.task, worker.loaded = None, None, True
        return None if answer is None else list(answer)

    def _replaced(self, worker: _Worker, cause: str) -> "list[Record] | None":
        """Put another worker in the place of one that died; the records of a unit to be left."""
        import ray

        ray.kill(worker.actor)  # it may only be out of reach
        task = worker.task
        deaths = 0 if task else worker.loading_deaths + 1
        place = self._workers.index(worker)
        if deaths < DEATHS:
            _tell(f"Worker {worker.number} died and is replaced: {cause}")
            self._workers[place] = self._hired(worker.number, loading_deaths=deaths)
        else:
            _tell(f"Worker {worker.number} died {deaths} times while it loaded: {cause}")
            del self._workers[place]
        if not self._workers:
            raise OperationError(
                f"Every worker died while it loaded the weights: {cause}",
                "Each needs the memory for a whole pipeline, and this package installed.",
                "Use fewer workers on a machine, or machines with more memory.",
            )
        if task is None:
            return None
        task.deaths += 1
        if task.deaths < DEATHS:
            self._again.appendleft(task)
            return None
        error = f"Its worker died {DEATHS} times: {cause}"
        return [
            failed_record(job, error, None)
            for job in task.unit.jobs
            if job.line in task.unit.missing
        ]

    def _tell_of_waiting(self) -> None:
        import ray

        kind = "GPU" if self._cluster.gpus_per_worker else "CPU"
        free = ray.available_resources().get(kind, 0)
        total = ray.cluster_resources().get(kind, 0)
        _tell(f"No worker is ready yet; of the cluster's {total:g} {kind}s {free:g} are free.")


def _for_other_processes(settings: SamplerSettings, *, folder: Path | None) -> SamplerSettings:
    """`settings` without what only holds in this process: relative paths, its scratch folder."""
    weights, out = settings.weights, settings.out
    return dataclasses.replace(
        settings,
        weights=weights if weights in VARIANTS else str(Path(weights).absolute()),
        out=out if "://" in out else str(Path(out).absolute()),
        lora_paths=tuple(path.absolute() for path in settings.lora_paths),
        # Files of workers that are killed go with the cluster's folder, where it is ours.
        scratch=folder,
    )


def _cause(error: Exception) -> str:
    """The end of Ray's message that says why, on one line."""
    message, _, _ = str(error).strip().partition(" Some common causes")
    return message.splitlines()[-1][:_CAUSE] if message else type(error).__name__


def _tell(line: str) -> None:
    from tqdm import tqdm

    with suppress(OSError):  # a terminal that is gone must not end the run
        tqdm.write(line, file=sys.stderr)  # above the bar, where there is one
