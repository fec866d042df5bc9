"""A sampler whose prompts say how it behaves, for ranks of tests; it computes next to nothing.

`python -m tests.sampling.parallel.stub_sampler OUT PROMPT` samples a line by two ranks.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

from predictors.request import validate
from sampling.clip_job import ClipJob, WorkUnit
from sampling.clip_sampler import SamplerSettings
from sampling.manifest import Record
from sampling.parallel.executor import ParallelExecutor
from sampling.parallel.layouts import Layout
from weights.errors import OperationError, UserError
from weights.variants import VARIANTS

LAYOUT = Layout(ulysses=1, cfg=2)


class StubSampler:
    """Rank 0 runs `sample`, the others `denoised`: so a prompt can tell ranks apart."""

    def __init__(self, out):
        self.out = Path(out)
        self.pipe = SimpleNamespace(transformer=_transformer())
        (self.out / f"rank-{os.getpid()}").touch()

    def sample(self, unit, embeddings):
        (job,) = unit.jobs
        error = self._denoise(job, "first")
        if job.request.prompt == "full":
            raise OperationError("The disk is full.", "Line 3 did not fit.", "Make room.")
        if error is None:
            (self.out / job.name).write_text(f"{job.request.prompt} {embeddings}")
        return [record(job, error)]

    def denoised(self, unit, _embeddings):
        (job,) = unit.jobs
        error = self._denoise(job, "other")
        return {}, {} if error is None else {job.line: error}

    def close(self):
        (self.out / f"closed-{os.getpid()}").touch()

    def _denoise(self, job, rank):
        import torch

        transformer = self.pipe.transformer
        words = job.request.prompt.split()
        if words == ["die", rank]:
            os.kill(os.getpid(), signal.SIGKILL)
        if words == ["wait"]:
            (self.out / "waiting").write_text("waiting")
            threading.Event().wait()
        if words[0] == "early" and rank in words:
            return f"early in {rank}"
        transformer.broken = words[0] in ("break", "again") and rank in words
        inputs = torch.arange(2.0)
        try:
            (output,) = transformer(
                hidden_states=inputs, encoder_hidden_states=inputs, timestep=inputs
            )
        except ZeroDivisionError as error:
            if words[0] == "again":
                transformer(hidden_states=inputs, encoder_hidden_states=inputs, timestep=inputs)
            return str(error)
        assert output.tolist() == [0, 3]
        return None


def _transformer():
    import torch

    class Tripled(torch.nn.Module):
        broken = False

        def forward(self, hidden_states, encoder_hidden_states, timestep):
            if self.broken:
                raise ZeroDivisionError("inside the transformer")
            assert len(hidden_states) == 1, "it was not split"
            return (3 * hidden_states,)

    return Tripled()


def record(job, error):
    return Record(
        line=job.line,
        prompt=job.request.prompt,
        image=None,
        seed=job.request.seed,
        settings={},
        key=job.key,
        file=None if error else job.name,
        digest=None,
        bytes=None,
        seconds=None,
        error=error,
    )


def unit(line, prompt):
    request = validate(VARIANTS["nano"], prompt=prompt, seed=line)
    job = ClipJob(line=line, request=request, image=None, sat_sampler=None, key=f"key {line}")
    return WorkUnit(number=line, jobs=(job,), missing=frozenset({line}))


def settings(out, **others):
    return SamplerSettings(weights="nano", task="t2v", out=str(out), **others)


def load(settings):
    return StubSampler(settings.out)


def load_refused(settings):
    raise UserError(f"{settings.out} is not a place.", "It should be.", "Make it one.")


def load_broken(settings):
    raise RuntimeError("not one of ours")


def main(out, prompt):
    executor = ParallelExecutor(settings(out), LAYOUT, load=load)
    try:
        for records in executor.results([(unit(1, prompt), "embeddings")]):
            print(records)
    finally:
        executor.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
