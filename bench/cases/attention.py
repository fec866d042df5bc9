"""The kernels of torch's scaled-dot-product attention, and the two passes that guidance needs."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.case import Case
from bench.figures import Figure
from bench.instruments import median_seconds
from bench.session import Session

if TYPE_CHECKING:
    import torch

_REPEATS = 5


def _attention(session: Session) -> Iterator[Figure]:
    from torch.nn.attention import sdpa_kernel

    model = session.model()
    times: dict[Any, float] = {}
    yield from _kernels(session, times)
    fastest = min(times, key=times.__getitem__)
    # The others stay allowed: T5's attention has a bias, which not every kernel takes.
    order = [fastest, *(backend for backend in _backends() if backend is not fastest)]
    with sdpa_kernel(order, set_priority=True):
        run = session.sample(model, session.request(session.steps))
    yield Figure(name=f"a step, {_shown(fastest)} first", value=run.step, unit="s")
    if step := session.known.get("step"):
        yield Figure(name="the same against torch's choice", value=run.step / step, unit="×")


def _kernels(session: Session, times: dict[Any, float]) -> Iterator[Figure]:
    """Time each kernel on one layer's attention, both passes; seconds go into `times`, too."""
    import torch
    from torch.nn.attention import sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    query = _query(session)
    key, value = torch.randn_like(query), torch.randn_like(query)

    def attend() -> None:
        scaled_dot_product_attention(query, key, value)

    name = f"attention over {query.shape[2]:,} tokens"
    yield _milliseconds(f"{name}, torch's choice", median_seconds(attend, _REPEATS))
    for backend in _backends():
        session.budget.check()
        label = f"{name}, {_shown(backend)}"
        try:
            with warnings.catch_warnings(), sdpa_kernel([backend]):
                # torch tells at length why it can't use a kernel.
                warnings.simplefilter("ignore")
                times[backend] = median_seconds(attend, _REPEATS)
        except torch.OutOfMemoryError:
            yield Figure(name=label, value=None, note="out of memory")
        except RuntimeError:
            yield Figure(name=label, value=None, note="not on this machine")
        else:
            yield _milliseconds(label, times[backend])


def _backends() -> "list[torch.nn.attention.SDPBackend]":
    from torch.nn.attention import SDPBackend

    return [
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]


def _shown(backend: Any) -> str:
    return str(backend.name).lower().removesuffix("_attention")


def _milliseconds(name: str, seconds: float) -> Figure:
    return Figure(name=name, value=seconds * 1000, unit="ms")


def _query(session: Session) -> "torch.Tensor":
    """What the first layer of the model asks its attention: (passes, heads, tokens, 64)."""
    model = session.model()
    queries = []
    layer = model.pipe.transformer.transformer_blocks[0].attn1.norm_q
    handle = layer.register_forward_hook(lambda _module, _inputs, output: queries.append(output))
    try:
        session.sample(model, session.request(2))
    finally:
        handle.remove()
    return queries[0]


def _guidance(session: Session) -> Iterator[Figure]:
    model = session.model()
    with one_pass_at_a_time(model.pipe.transformer):
        run = session.sample(model, session.request(session.steps))
    yield Figure(name="a step, the passes apart", value=run.step, unit="s")
    if batched := session.known.get("step"):
        yield Figure(name="apart against batched", value=run.step / batched, unit="×")
    if run.peak is not None:
        predicted = session.predicted_peak(model, passes=1)
        yield Figure(name="peak, apart", value=run.peak, unit="bytes", predicted=predicted)
    alone = session.sample(model, session.request(session.steps, guidance_scale=1))
    yield Figure(name="a step without guidance", value=alone.step, unit="s")


@contextmanager
def one_pass_at_a_time(transformer: Any) -> Iterator[None]:
    """Within it, a batch of two goes through `transformer` one after the other."""
    import torch

    # Offloading may have put one of its own there.
    own = vars(transformer).get("forward")
    batched = transformer.forward

    def forward(
        hidden_states: "torch.Tensor",
        encoder_hidden_states: "torch.Tensor",
        timestep: "torch.Tensor",
        **others: Any,
    ) -> tuple["torch.Tensor"]:
        parts = zip(hidden_states, encoder_hidden_states, timestep, strict=True)
        outputs = [batched(h[None], e[None], t[None], **others)[0] for h, e, t in parts]
        return (torch.cat(outputs),)

    transformer.forward = forward
    try:
        yield
    finally:
        del transformer.forward
        if own is not None:
            transformer.forward = own


ATTENTION = Case(
    name="attention",
    shows="each kernel of torch's attention at this size, and a step with the fastest",
    run=_attention,
    expected_seconds=lambda s: s.cost(steps=s.steps + 2, requests=1),
)
GUIDANCE = Case(
    name="guidance",
    shows="the two passes of guidance batched, apart, and without the second",
    run=_guidance,
    expected_seconds=lambda s: s.cost(steps=s.steps, requests=2),
)
