"""What the health check says, alone and through the real Cog server."""

import subprocess
import sys

import pytest
import requests
import torch

from cli.runners import RunnerFile
from cli.server import running_server
from predictors.health import ANSWER_SECONDS, healthy

RUNNER = """
from cog import BaseRunner, Input

from predictors.health import healthy


class Runner(BaseRunner):
    def setup(self) -> None:
        self.device = "cpu"

    def healthcheck(self) -> bool:
        return healthy(self.device)

    def run(self, device: str = Input(default="cpu")) -> str:
        self.device = device
        return device
"""


def test_a_cpu_is_healthy():
    assert healthy("cpu")
    assert healthy(torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_does_not_answer_is_not(capsys):
    assert not healthy("cuda")
    assert "can't be used" in capsys.readouterr().out


# An index out of bounds kills the context for good; the process of the tests must not be it.
KILL_AND_ASK = """
import torch
from predictors.health import healthy
print(healthy("cuda"))
try:
    torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].cpu()
except RuntimeError:
    pass
print(healthy("cuda"))
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_dead_context_is_noticed():
    asked = subprocess.run(
        [sys.executable, "-c", KILL_AND_ASK], capture_output=True, text=True, check=False
    )
    lines = asked.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("True", "False")


def test_the_answer_comes_before_cogs_own_limit():
    assert ANSWER_SECONDS < 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cog_reports_it(tmp_path, recorded_lines):
    (tmp_path / "runner.py").write_text(RUNNER)
    runner = RunnerFile(tmp_path / "runner.py")
    with running_server(runner, weights="unused", on_line=recorded_lines.add) as server:

        def status():
            return requests.get(f"{server.url}/health-check", timeout=60).json()["status"]

        assert status() == "READY"
        url = f"{server.url}/predictions"
        requests.post(url, json={"input": {"device": "cuda"}}, timeout=60).raise_for_status()
        assert status() == "UNHEALTHY"
