"""Cancelling through the real Cog server, with steps long enough to be counted."""

from concurrent.futures import ThreadPoolExecutor

import requests

from cli.runners import RunnerFile
from cli.server import running_server

# A step takes a second in one call, as on a GPU.
RUNNER = """
import time

from cog import BaseRunner, Input, Path

from predictors.generate import generate
from predictors.video_model import load_from_environment


def slow(*_):
    time.sleep(1.0)


class Runner(BaseRunner):
    def setup(self) -> None:
        self.model = load_from_environment("t2v")
        self.model.pipe.transformer.register_forward_pre_hook(slow)

    def run(self, num_inference_steps: int = Input(default=50)) -> Path:
        inputs = {"prompt": "x", "num_inference_steps": num_inference_steps}
        return Path(generate(self.model, inputs, record_metric=self.record_metric))
"""


def steps_in(lines):
    return [line for line in lines if line.startswith("step ")]


def test_cancelling_stops_within_one_step(tiny_folder, tmp_path, recorded_lines):
    (tmp_path / "runner.py").write_text(RUNNER)
    runner = RunnerFile(tmp_path / "runner.py")
    with (
        running_server(runner, weights=str(tiny_folder), on_line=recorded_lines.add) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        url = f"{server.url}/predictions/slow"
        running = pool.submit(requests.put, url, json={"input": {}}, timeout=(10, 60))
        recorded_lines.wait_for("step 2/50", since=0)
        requests.post(f"{url}/cancel", timeout=10).raise_for_status()
        before = len(steps_in(recorded_lines.since(0)))
        assert running.result().json()["status"] == "canceled"
        assert len(steps_in(recorded_lines.since(0))) <= before + 1
