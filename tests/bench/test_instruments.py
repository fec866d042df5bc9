import pytest
import torch

from bench.cases.attention import one_pass_at_a_time
from bench.instruments import call_times, median_seconds
from bench.random_pipeline import random_pipeline
from weights.variants import VARIANTS


def test_calls_are_timed_from_one_to_the_next():
    layer = torch.nn.Linear(1, 1)
    counted = []
    with call_times(layer, lambda: counted.append(1)) as times:
        for _ in range(3):
            layer(torch.ones(1))
    layer(torch.ones(1))
    assert len(counted) == 3
    durations = times.durations()
    assert len(durations) == 3
    assert all(seconds > 0 for seconds in durations)
    assert sum(durations) == pytest.approx(times.end - times.starts[0])


def test_what_is_raised_at_a_call_ends_it_and_leaves_nothing_behind():
    layer = torch.nn.Linear(1, 1)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), call_times(layer, stop):
        layer(torch.ones(1))
    layer(torch.ones(1))


def test_the_first_call_does_not_count():
    calls = []
    assert median_seconds(lambda: calls.append(1), 3) >= 0
    assert len(calls) == 4


def test_two_passes_give_the_same_apart_as_batched():
    transformer = random_pipeline(VARIANTS["nano"], device="cpu", dtype="float32").transformer
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(2, 3, 16, 8, 8, generator=generator),
        "encoder_hidden_states": torch.randn(2, 16, 64, generator=generator),
        "timestep": torch.tensor([500, 500]),
        "return_dict": False,
    }
    batches = []
    transformer.proj_out.register_forward_pre_hook(lambda _m, args: batches.append(len(args[0])))
    with torch.no_grad():
        (batched,) = transformer(**inputs)
        with one_pass_at_a_time(transformer):
            (apart,) = transformer(**inputs)
        transformer(**inputs)
    assert batches == [2, 1, 1, 2]
    torch.testing.assert_close(apart, batched, rtol=1e-4, atol=1e-5)
    assert (batched[0] - batched[1]).abs().max() > 0.01
