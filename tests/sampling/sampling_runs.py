"""Runs on a tiny model, and an executor that samples nothing."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from sampling.clip_sampler import ClipSampler, SamplerSettings
from sampling.job_plan import settings_of
from sampling.manifest import Record
from sampling.open_store import open_store
from sampling.prepared_run import PreparedRun, SampleCommand, prepare_run
from sampling.run import SequentialExecutor, Summary, sample_prompts

STEPS = {"num_inference_steps": 2}


def prompt_file(folder: Path, count: int, **columns) -> Path:
    """A JSONL file with `count` prompts, each with `columns`."""
    path = folder / "prompts.jsonl"
    rows = ({"prompt": f"a circle, take {number}", **columns} for number in range(1, count + 1))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prepared(weights: Path, prompts: Path, out: Path, **options) -> PreparedRun:
    options.setdefault("defaults", STEPS)
    return prepare_run(
        SampleCommand(prompts=prompts, out=str(out), weights=str(weights), **options)
    )


class DenoiserStub:
    """An executor that stands in for the denoiser and all around it: of no weights and no noise.

    A video is a few bytes that say what it was asked for. `before` is called with each unit.
    """

    def __init__(self, run: PreparedRun, before: Callable = lambda unit: None, failing=()) -> None:
        self._store = open_store(run.settings.out)
        self._before, self._failing = before, failing
        self._file = Path(run.settings.out) / ".stub"
        self.sampled: list[int] = []
        self.closed = False

    def results(self, units):
        for unit, embeddings in units:
            self._before(unit)
            assert len(embeddings.prompt_embeds) == len(unit.jobs)
            yield [self._record(job) for job in unit.jobs if job.line in unit.missing]

    def close(self):
        self.closed = True

    def _record(self, job):
        self.sampled.append(job.line)
        broken = job.line in self._failing
        content = f"{job.request.prompt} {job.request.seed} {job.key}".encode()
        if not broken:
            self._file.write_bytes(content)
            self._store.put(job.name, self._file)
        return Record(
            line=job.line,
            prompt=job.request.prompt,
            image=None,
            seed=job.request.seed,
            settings=settings_of(job),
            key=job.key,
            file=None if broken else job.name,
            digest=None if broken else f"sha256:{hashlib.sha256(content).hexdigest()}",
            bytes=None if broken else len(content),
            seconds=0.0,
            error="It broke." if broken else None,
        )


def stubbed(run: PreparedRun, **options) -> tuple[Summary, DenoiserStub]:
    """What a run with a stub in place of the denoiser came to, and the stub."""
    stub = DenoiserStub(run, **options)
    return sample_prompts(run, lambda _: stub), stub


def loaded_executor(sampler: ClipSampler) -> Callable[[PreparedRun], SequentialExecutor]:
    """Makes executors that share one loaded pipeline: loading takes longer than a test."""

    class Loaded(SequentialExecutor):
        def __init__(self, settings: SamplerSettings) -> None:
            super().__init__(settings)
            self._sampler = sampler
            sampler._store = open_store(settings.out)

        def close(self) -> None:
            """The next one needs it."""

    return lambda run: Loaded(run.settings)


def videos(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".mp4"}


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def without_seconds(found: list[dict]) -> list[dict]:
    return [{**record, "seconds": None} for record in found]
