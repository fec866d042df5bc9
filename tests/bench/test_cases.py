"""Every case that a machine without a GPU can take, on both nano models."""

from types import SimpleNamespace

import pytest
import torch

from bench.budget import Budget
from bench.case import run_cases
from bench.cases import CASES
from bench.session import Session
from predictors.speed import computed_steps
from weights.variants import VARIANTS

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs more of them")

GPU_ONLY = {"resident", "model-offload", "group-offload", "sequential", "precision"}
# Those that leave the model as it was; the others have one of their own.
ON_THE_SAME_MODEL = {"served", "speed", "attention", "guidance", "decode", "lora"}
# Code for a CPU takes up to a minute to build: tests/gpu compiles, and test_compilation.py goes
# without building. One of the models is enough for requests of 50 steps.
COMPILING = {"compile", "int8-compile"}
LEFT_OUT = {
    "nano": COMPILING,
    "nano-i2v": {*COMPILING, "full-quality", "full-fast", "full-balanced"},
}


@pytest.fixture(scope="module")
def one_thread():
    """Nano's layers are so small that threads mostly wait, for ages where others want the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def state_of(model):
    transformer, vae = model.pipe.transformer, model.pipe.vae
    modules = [(type(m), len(m._forward_pre_hooks)) for m in transformer.modules()]
    return modules, "forward" in vars(transformer), vae.use_tiling


@pytest.fixture(scope="module", params=["nano", "nano-i2v"])
def found(request, one_thread):
    session = Session(VARIANTS[request.param], steps=2, budget=Budget(3600))
    cases = [case for case in CASES if case.name not in LEFT_OUT[request.param]]
    model = session.model()
    before = state_of(model)
    outcomes = list(run_cases([c for c in cases if c.name in ON_THE_SAME_MODEL], session))
    kept = session.model() is model and state_of(model) == before
    outcomes += run_cases([c for c in cases if c.name not in ON_THE_SAME_MODEL], session)
    return SimpleNamespace(outcomes={o.case: o for o in outcomes}, kept=kept)


def figures(outcome):
    return {figure.name: figure for figure in outcome.figures}


def test_all_are_done_or_say_what_is_missing(found):
    skipped = {name: o.reason for name, o in found.outcomes.items() if o.status == "skipped"}
    assert skipped == dict.fromkeys(GPU_ONLY, "there is no CUDA device")
    others = [o for name, o in found.outcomes.items() if name not in GPU_ONLY]
    assert {o.status for o in others} == {"done"}, [o.reason for o in others]
    assert all(o.figures for o in others)


def test_the_model_is_left_as_it_was(found):
    assert found.kept


def test_seconds_are_positive(found):
    for outcome in found.outcomes.values():
        for figure in outcome.figures:
            if figure.value is not None and figure.unit == "s":
                assert figure.value > 0, (outcome.case, figure)


def test_a_full_request_is_computed_from_its_parts(found):
    served = figures(found.outcomes["served"])
    full = served["50 steps at quality, up to the frames"]
    assert full.origin == "computed"
    parts = served["to encode the prompt"].value + served["to decode"].value
    assert full.value >= parts + 50 * served["a step with guidance"].value


@pytest.mark.parametrize("speed", ["balanced", "fast"])
def test_a_preset_takes_the_share_that_its_schedule_implies(found, speed):
    measured = figures(found.outcomes["speed"])
    reused = measured["a reusing step against a computed one"].value
    computed = sum(computed_steps(speed, 50))
    share = measured[f"denoising 50 steps at {speed}, against quality"]
    assert share.origin == "computed"
    assert share.value == pytest.approx((computed + (50 - computed) * reused) / 50)
