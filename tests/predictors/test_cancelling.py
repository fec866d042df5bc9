"""Cancelling through the real Cog server, with steps long enough to be counted."""

from concurrent.futures import ThreadPoolExecutor

import requests

from cli.runners import RunnerFile
from cli.server import running_server

# A pipeline whose step is one call that blocks for a second, as a step on a GPU does; everything
# around it is ours.
RUNNER = """
import time

from cog import BaseRunner, Input, Path

from predictors.generate import generate
from predictors.pipeline import LoadedPipeline
from weights.variants import VARIANTS


class SlowPipe:
    scheduler = None

    def __call__(self, *, num_inference_steps, callback_on_step_end, **arguments):
        for index in range(num_inference_steps):
            time.sleep(1.0)
            callback_on_step_end(self, index, None, {})

    def maybe_free_model_hooks(self):
        print("hooks freed", flush=True)


class Runner(BaseRunner):
    def setup(self) -> None:
        self.pipeline = LoadedPipeline(SlowPipe(), VARIANTS["nano"])

    def run(self, steps: int = Input(default=50)) -> Path:
        return Path(
            generate(
                self.pipeline,
                prompt="x",
                num_inference_steps=steps,
                guidance_scale=6,
                num_frames=None,
                seed=1,
                record_metric=self.record_metric,
            )
        )
"""


def steps_in(lines):
    return [line for line in lines if line.startswith("step ")]


def test_cancelling_stops_within_one_step(tmp_path, recorded_lines):
    (tmp_path / "runner.py").write_text(RUNNER)
    runner = RunnerFile(tmp_path / "runner.py")
    with (
        running_server(runner, weights="unused", on_line=recorded_lines.add) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        url = f"{server.url}/predictions/slow"
        running = pool.submit(requests.put, url, json={"input": {}}, timeout=(10, 60))
        recorded_lines.wait_for("step 2/50", since=0)
        requests.post(f"{url}/cancel", timeout=10).raise_for_status()
        before = len(steps_in(recorded_lines.since(0)))
        assert running.result().json()["status"] == "canceled"
        recorded_lines.wait_for("hooks freed", since=0)
        assert len(steps_in(recorded_lines.since(0))) <= before + 1
