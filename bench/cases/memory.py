"""Each way of holding the weights, its peak against the planner's; tiles in the decoder."""

from collections.abc import Iterator
from functools import partial

from bench.case import Case
from bench.cases.requests import around_the_steps
from bench.figures import Figure
from bench.instruments import Stopwatch, allocated_memory, peak_memory
from bench.random_model import Setup
from bench.session import Session
from predictors.decoding import decode
from predictors.memory_estimate import PLACEMENTS, Placement
from predictors.pipeline import PipelineSettings

# Steps of weights that travel are slow: three tell enough.
_STEPS = 3


def _setup(placement: Placement) -> Setup:
    return Setup(settings=PipelineSettings(memory=placement))


def _placed(placement: Placement, session: Session) -> Iterator[Figure]:
    model = session.model(_setup(placement))
    tiled = "on" if model.policy.vae_tiling else "off"
    run = session.sample(model, session.request(_STEPS))
    assert run.peak is not None
    predicted = session.predicted_peak(model)
    yield Figure(
        name=f"peak, VAE tiling {tiled}", value=run.peak, unit="bytes", predicted=predicted
    )
    yield Figure(name="held between requests", value=allocated_memory(), unit="bytes")
    again = session.sample(model, session.request(_STEPS))
    yield Figure(name="a step with guidance", value=again.step, unit="s")
    yield from around_the_steps(again)


def _decode(session: Session) -> Iterator[Figure]:
    model = session.model()
    vae = model.pipe.vae
    latents = session.latents(model)
    try:
        for name, tiled in (("in tiles", True), ("whole", False)):
            session.budget.check()
            vae.use_tiling = tiled
            # Once for what is set up at first.
            decode(model.pipe, latents, session.video.frames)
            held = allocated_memory()
            with peak_memory() as peak:
                watch = Stopwatch()
                decode(model.pipe, latents, session.video.frames)
                seconds = watch.seconds()
            yield Figure(name=name, value=seconds, unit="s")
            if peak.allocated is not None:
                taken = peak.allocated - held
                yield Figure(name=f"memory to decode {name}", value=taken, unit="bytes")
    finally:
        vae.use_tiling = model.policy.vae_tiling


def _nowhere_to_move(session: Session) -> str:
    return "" if session.device == "cuda" else "there is no CUDA device"


# What is moved can take several times the step of what stays.
PLACED = tuple(
    Case(
        name=placement,
        shows=f"{placement}: peak of memory, a step, and what stays on the GPU afterwards",
        run=partial(_placed, placement),
        expected_seconds=partial(
            lambda placement, s: 2 * s.cost(_setup(placement), steps=_STEPS, requests=2), placement
        ),
        obstacle=_nowhere_to_move,
    )
    for placement in PLACEMENTS
)
DECODE = Case(
    name="decode",
    shows="decoding in tiles and whole",
    run=_decode,
    expected_seconds=lambda s: s.cost(steps=0, requests=4),
)
