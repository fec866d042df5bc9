"""Requests as they are served: what a step and the stages around it take, and all of a long one."""

from collections.abc import Iterator
from functools import partial

from bench.case import Case
from bench.figures import Figure
from bench.instruments import card_name
from bench.random_model import Setup
from bench.session import AS_SERVED, Run, Session
from bench.targets import target_seconds
from predictors.pipeline import PipelineSettings
from predictors.speed import PRESETS, Speed, computed_steps

FULL_STEPS = 50
COMPILED = Setup(settings=PipelineSettings(compiled=True))
# With fewer, `fast` has no step that reuses what another has computed.
REUSING_STEPS = 14


def full_request(session: Session, seconds: float, speed: Speed, **more: str) -> Figure:
    """`seconds` for all of a request, against the target that is set for it."""
    return Figure(
        name=f"{FULL_STEPS} steps at {speed}, up to the frames",
        value=seconds,
        unit="s",
        target=target_seconds(session.variant.name, card_name(), speed),
        **more,  # type: ignore[arg-type]
    )


def around_the_steps(run: Run) -> Iterator[Figure]:
    """What comes before the steps, of a prompt that is not kept, and after them."""
    yield Figure(name="to encode the prompt", value=run.stages["encode_prompt"], unit="s")
    yield Figure(name="to decode", value=run.stages["decode"], unit="s")


def _served(session: Session) -> Iterator[Figure]:
    model = session.model()
    yield Figure(name="to build the random model", value=session.known["build"], unit="s")
    session.sample(model, session.request(2))
    run = session.sample(model, session.request(session.steps))
    session.known |= {"step": run.step, "around": run.around}
    yield Figure(name="a step with guidance", value=run.step, unit="s")
    yield from around_the_steps(run)
    if run.peak is not None:
        predicted = session.predicted_peak(model)
        yield Figure(name="peak", value=run.peak, unit="bytes", predicted=predicted)
    seconds = run.around + FULL_STEPS * run.step
    yield full_request(session, seconds, "quality", origin="computed")


def _fastest(session: Session) -> tuple[Setup, float]:
    """The way of running that was found the fastest, and the seconds of a step in it."""
    step = session.known.get("step", 0)
    compiled = session.known.get("compiled step", step)
    return (COMPILED, compiled) if compiled < step else (AS_SERVED, step)


def _full(speed: Speed, session: Session) -> Iterator[Figure]:
    setup, _ = _fastest(session)
    model = session.model(setup)
    if speed in PRESETS:
        session.sample(model, session.request(REUSING_STEPS, speed="fast"))
    else:
        session.sample(model, session.request(2))
    run = session.sample(model, session.request(FULL_STEPS, speed=speed))
    session.known[f"full {speed}"] = run.seconds
    how = "compiled" if setup.settings.compiled else ""
    yield full_request(session, run.seconds, speed, note=how)
    if speed in PRESETS and (quality := session.known.get("full quality")):
        yield Figure(name="its time against quality's", value=run.seconds / quality, unit="×")


def _full_seconds(speed: Speed, session: Session) -> float:
    setup, step = _fastest(session)
    warm_up = REUSING_STEPS if speed in PRESETS else 2
    steps = sum(computed_steps(speed, FULL_STEPS)) + warm_up
    return session.cost(setup, steps=0, requests=2) + steps * step


SERVED = Case(
    name="served",
    shows="a step, the stages around it and the peak of memory",
    run=_served,
    expected_seconds=lambda _session: 0,
)
FULL_REQUESTS = tuple(
    Case(
        name=f"full-{speed}",
        shows=f"a request of {FULL_STEPS} steps at {speed}, compiled where that was faster",
        run=partial(_full, speed),
        expected_seconds=partial(_full_seconds, speed),
    )
    for speed in ("quality", "fast", "balanced")
)
