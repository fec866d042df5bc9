"""The average is the weighted sum that the decays say, and goes on from a checkpoint."""

import io
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.ema import Ema

VALUES = st.floats(-100, 100, width=32)


class OneNumber(torch.nn.Module):
    def __init__(self, number, dtype=torch.float32):
        super().__init__()
        self.number = torch.nn.Parameter(torch.tensor([number], dtype=dtype))

    def become(self, number):
        self.number.data.fill_(number)
        return self


def average(ema):
    return ema.average["number"].item()


def averaged(numbers, decay):
    first, *others = numbers
    ema = Ema(OneNumber(first), decay)
    for number in others:
        ema.update(OneNumber(number))
    return ema


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_first_updates_count_most():
    ema = averaged([0, 1], 0.999)
    assert average(ema) == pytest.approx(9 / 11)
    ema.update(OneNumber(1))
    assert average(ema) == pytest.approx(1 - 2 / 11 * 3 / 12)


@given(st.lists(VALUES, min_size=1, max_size=30), st.floats(0, 1))
def test_it_is_the_sum_that_the_decays_weigh(numbers, decay):
    decays = [min(decay, (2 + n) / (11 + n)) for n in range(len(numbers) - 1)]
    expected = prod(decays) * numbers[0] + sum(
        (1 - each) * prod(decays[n + 1 :]) * numbers[n + 1] for n, each in enumerate(decays)
    )
    assert average(averaged(numbers, decay)) == pytest.approx(expected, abs=1e-3, rel=1e-5)


def test_without_decay_it_is_the_last_one():
    assert average(averaged([1, 2, 5], 0.0)) == 5


def test_every_parameter_is_averaged_and_no_buffer():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    ema = Ema(module, 0.5)
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    for parameter in module.parameters():
        parameter.data += 11
    module[1].running_mean.fill_(7)
    ema.update(module)
    ema.copy_to(module)
    assert len(before) == 4
    for name, parameter in module.named_parameters():
        assert torch.allclose(parameter, before[name] + 9)
    assert module[1].running_mean.tolist() == [7, 7]


def test_training_on_leaves_the_average_alone():
    module = OneNumber(1)
    ema = Ema(module, 0.9)
    module.become(2)
    assert average(ema) == 1
    ema.copy_to(module)
    assert module.number.item() == 1
    module.become(3)
    assert average(ema) == 1


def test_a_module_of_low_precision_has_a_precise_average():
    module = OneNumber(256, torch.bfloat16)
    ema = Ema(module, 0.99)
    for _ in range(2):
        ema.update(module.become(258))
    # bfloat16 has no number between 256 and 258.
    assert average(ema) == pytest.approx(258 - 2 * 2 / 11 * 3 / 12, abs=1e-4)
    ema.copy_to(module.become(0))
    assert module.number.dtype == torch.bfloat16
    assert module.number.item() == 258


def test_what_has_the_average_can_be_trained():
    module = OneNumber(1)
    Ema(module, 0.9).copy_to(module)
    module.number.square().sum().backward()
    assert module.number.grad.item() == 2


def test_no_gradient_flows_into_the_average():
    module = OneNumber(1)
    ema = Ema(module, 0.9)
    ema.update(module)
    assert not ema.average["number"].requires_grad


@given(st.lists(VALUES, min_size=2, max_size=20), st.data())
def test_it_goes_on_from_a_checkpoint_as_if_never_stopped(numbers, data):
    stop = data.draw(st.integers(1, len(numbers)))
    state = through_a_file(averaged(numbers[:stop], 0.7).state_dict())
    resumed = Ema(OneNumber(12345), 0.7)
    resumed.load_state_dict(state)
    for number in numbers[stop:]:
        resumed.update(OneNumber(number))
    assert average(resumed) == average(averaged(numbers, 0.7))


def test_two_that_go_on_from_one_checkpoint_are_independent():
    state = averaged([1, 2], 0.9).state_dict()
    first, second = Ema(OneNumber(0), 0.9), Ema(OneNumber(0), 0.9)
    first.load_state_dict(state)
    second.load_state_dict(state)
    expected = average(second)
    first.update(OneNumber(50))
    assert average(second) == expected


def test_the_checkpoint_of_another_model_is_refused():
    with pytest.raises(KeyError):
        Ema(torch.nn.Linear(1, 1), 0.9).load_state_dict(Ema(OneNumber(1), 0.9).state_dict())
