"""What makes a step faster or smaller: reused steps, compiled blocks, int8 weights."""

import os
from collections.abc import Iterator
from functools import partial
from statistics import median

from bench.case import Case
from bench.cases.requests import COMPILED, FULL_STEPS, REUSING_STEPS, full_request
from bench.figures import Figure
from bench.random_model import Setup
from bench.session import Session
from predictors import compilation, quantization
from predictors.pipeline import PipelineSettings
from predictors.speed import PRESETS, computed_steps
from weights.errors import UserError

_INT8 = Setup(settings=PipelineSettings(int8=True))
_INT8_COMPILED = Setup(settings=PipelineSettings(int8=True, compiled=True))
# What compiling the blocks of the largest model is taken to need, until it was done once.
_COMPILING_SECONDS = 90


def _speed(session: Session) -> Iterator[Figure]:
    request = session.request(REUSING_STEPS, speed="fast")
    run = session.sample(session.model(), request)
    flags = computed_steps("fast", REUSING_STEPS)
    by_kind = {
        kind: median(s for s, flag in zip(run.steps[1:], flags[1:], strict=True) if flag is kind)
        for kind in (True, False)
    }
    yield Figure(
        name="a reusing step against a computed one", value=by_kind[False] / by_kind[True], unit="×"
    )
    for speed in PRESETS:
        flags = computed_steps(speed, FULL_STEPS)
        steps = sum(by_kind[flag] for flag in flags)
        share = steps / (FULL_STEPS * by_kind[True])
        name = f"denoising {FULL_STEPS} steps at {speed}, against quality"
        yield Figure(name=name, value=share, unit="×", origin="computed")
        yield full_request(session, run.around + steps, speed, origin="computed")


def _compile(session: Session) -> Iterator[Figure]:
    import torch

    # A variant before may have compiled the same code.
    torch.compiler.reset()
    model = session.model(COMPILED)
    first = session.sample(model, session.request(2))
    run = session.sample(model, session.request(session.steps))
    session.known["compiled step"] = run.step
    yield Figure(
        name="what the first request takes longer",
        value=first.denoise - 2 * run.step,
        unit="s",
        note="with what torch keeps on disk of earlier runs",
    )
    yield Figure(name="a step", value=run.step, unit="s")
    if eager := session.known.get("step"):
        yield Figure(name="a step, against eager", value=run.step / eager, unit="×")
    seconds = run.around + FULL_STEPS * run.step
    yield full_request(session, seconds, "quality", origin="computed")


def _int8(setup: Setup, session: Session) -> Iterator[Figure]:
    model = session.model(setup)
    session.sample(model, session.request(2))
    run = session.sample(model, session.request(session.steps))
    yield Figure(name="a step", value=run.step, unit="s")
    if unquantised := session.known.get("step"):
        name = f"a step, against eager {session.dtype}"
        yield Figure(name=name, value=run.step / unquantised, unit="×")
    if run.peak is not None:
        predicted = session.predicted_peak(model)
        yield Figure(name="peak", value=run.peak, unit="bytes", predicted=predicted)


def _no_compiler(_session: Session) -> str:
    try:
        compilation.compile_wanted({**os.environ, compilation.VARIABLE: "1"})
    except UserError as error:
        return error.given
    return ""


def _no_torchao(_session: Session) -> str:
    try:
        quantization.int8_wanted({quantization.VARIABLE: "int8"})
    except UserError as error:
        return error.given
    return ""


SPEED = Case(
    name="speed",
    shows="steps that reuse what another computed, and the presets made of them",
    run=_speed,
    expected_seconds=lambda session: session.cost(steps=REUSING_STEPS),
)
COMPILE = Case(
    name="compile",
    shows="a step with the transformer's blocks compiled, and what compiling takes",
    run=_compile,
    expected_seconds=lambda s: _COMPILING_SECONDS + s.cost(COMPILED, steps=s.steps, requests=2),
    obstacle=_no_compiler,
)
INT8 = Case(
    name="int8",
    shows="a step and the peak of memory with int8 weights",
    run=partial(_int8, _INT8),
    expected_seconds=lambda s: s.cost(_INT8, steps=s.steps, requests=2),
    obstacle=_no_torchao,
)
INT8_COMPILED = Case(
    name="int8-compile",
    shows="int8 weights with the transformer's blocks compiled",
    run=partial(_int8, _INT8_COMPILED),
    expected_seconds=lambda s: (
        _COMPILING_SECONDS + s.cost(_INT8_COMPILED, steps=s.steps, requests=2)
    ),
    obstacle=lambda s: _no_torchao(s) or _no_compiler(s),
)
