"""The health check on a CUDA context that lives, works, and is broken."""

import subprocess
import sys
import time
from pathlib import Path

import torch

from predictors.health import healthy

ROOT = Path(__file__).resolve().parents[2]

# An index out of bounds is an assertion on the device, after which its context is lost. The process
# must end without the clean-up that would wait for it.
BREAK_THE_CONTEXT = """
import os
import torch
from predictors.health import healthy
before = healthy("cuda")
try:
    torch.zeros(1, device="cuda")[torch.tensor([9], device="cuda")]
    torch.cuda.synchronize()
except RuntimeError:
    pass
print(before, healthy("cuda"), healthy("cuda"), flush=True)
os._exit(0)
"""


def test_a_gpu_that_waits_is_healthy():
    assert healthy("cuda")


def test_a_busy_gpu_is_healthy_at_once():
    torch.cuda.synchronize()
    torch.cuda._sleep(4_000_000_000)  # clock cycles: about two seconds
    started = time.monotonic()
    assert healthy("cuda")
    took = time.monotonic() - started
    torch.cuda.synchronize()
    assert took < 0.5
    assert time.monotonic() - started > 2 * took


def test_a_broken_context_is_noticed_and_stays_so():
    done = subprocess.run(
        [sys.executable, "-c", BREAK_THE_CONTEXT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1] == "True False False", done.stderr
