"""A LoRA put into the loaded model for a request, and taken out."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.case import Case
from bench.figures import Figure
from bench.instruments import Stopwatch
from bench.session import Session
from predictors.video_model import VideoModel
from weights.variants import Variant

# What the trainers for CogVideoX use by default.
_RANK = 128
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


def write_random_lora(variant: Variant, path: Path, rank: int = _RANK) -> None:
    """Write a LoRA of random bfloat16 values for every attention layer of `variant`."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    width = variant.hidden_size
    tensors = {}
    for block in range(variant.num_layers):
        for projection in _PROJECTIONS:
            module = f"transformer.transformer_blocks.{block}.attn1.{projection}"
            for part, shape in (("lora_A", (rank, width)), ("lora_B", (width, rank))):
                values = torch.randn(shape, generator=generator) * 0.02
                tensors[f"{module}.{part}.weight"] = values.to(torch.bfloat16)
    save_file(tensors, path)


def _lora(session: Session) -> Iterator[Figure]:
    model = session.model()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        write_random_lora(session.variant, path)
        first, _ = _swapped(model, path)
        again, out = _swapped(model, path)
        with model.adapters.applied(path, 1.0):
            run = session.sample(model, session.request(session.steps))
    yield Figure(name=f"to put in one of rank {_RANK}, from disk", value=first, unit="s")
    yield Figure(name="to put the same one in again", value=again, unit="s")
    yield Figure(name="to take it out", value=out, unit="s")
    yield Figure(name="the first step with it", value=run.steps[0], unit="s")
    yield Figure(name="a step with it", value=run.step, unit="s")
    if bare := session.known.get("step"):
        yield Figure(name="a step with it, against without", value=run.step / bare, unit="×")


def _swapped(model: VideoModel, path: Path) -> tuple[float, float]:
    """Seconds to put the LoRA in, and to take it out."""
    watch = Stopwatch()
    with model.adapters.applied(path, 1.0):
        put_in = watch.seconds()
        watch = Stopwatch()
    return put_in, watch.seconds()


LORA = Case(
    name="lora",
    shows="a LoRA put in and taken out, and a step with it",
    run=_lora,
    expected_seconds=lambda s: 10 + s.cost(steps=s.steps),
)
