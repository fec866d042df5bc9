"""Several processes make the video that one makes."""

import json
import os
import subprocess
import sys

import pytest

from cli.runners import ROOT
from predictors.speed import computed_steps
from tests.sampling.parallel.shared_latents import CASES, LAYOUTS

VIDEO_TOKENS = {"2b": 27, "5b": 27, "5b_i2v": 72, "1.5_5b": 18, "1.5_5b_i2v": 18}


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def processes(request):
    return request.param


@pytest.fixture(scope="module")
def found(processes):
    run = subprocess.run(
        [sys.executable, "-m", "tests.sampling.parallel.shared_latents", str(processes)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


def test_latents_are_those_of_one_process(found, processes):
    assert len(found) == len(CASES) * len(LAYOUTS[processes])
    for name, result in found.items():
        assert result["largest"] > 1, name
        assert result["difference"] < 1e-5, name


def test_each_process_computes_its_part_only(found, processes):
    for case in CASES:
        batch = case.videos * (2 if case.guidance > 1 else 1)
        for layout in LAYOUTS[processes]:
            # One video without guidance is the one batch that can't be halved.
            halves = layout.cfg if batch > 1 else 1
            tokens = -(-VIDEO_TOKENS[case.golden] // layout.ulysses)
            result = found[f"{case.name} u{layout.ulysses} c{layout.cfg}"]
            assert result["part"] == [batch // halves, tokens]


def test_a_case_leaves_steps_out():
    assert any(not all(computed_steps(case.speed, case.steps)) for case in CASES)
