"""What is saved is on the CPU; random numbers go on where they were."""

import pytest
import torch

from training.devices import device_named, on_cpu, random_state, set_random_state
from weights.errors import UserError

CPU = torch.device("cpu")


def test_the_cpu_is_always_there():
    assert device_named("cpu") == CPU


@pytest.mark.parametrize("there", [True, False])
def test_cuda_is_taken_where_torch_has_it(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    if there:
        assert device_named("cuda").type == "cuda"
        return
    with pytest.raises(UserError) as caught:
        device_named("cuda")
    assert all((caught.value.given, caught.value.expected, caught.value.remedy))


def test_every_tensor_of_a_state_is_brought_to_the_cpu(monkeypatch):
    moved = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: moved.append(tensor) or "moved")
    one, two = torch.zeros(1), torch.zeros(2)
    state = {
        "state": {0: {"step": one, "rate": 0.1}},
        "groups": [{"params": [0]}, two],
        "none": None,
    }
    assert on_cpu(state) == {
        "state": {0: {"step": "moved", "rate": 0.1}},
        "groups": [{"params": [0]}, "moved"],
        "none": None,
    }
    assert [len(tensor) for tensor in moved] == [1, 2]


def test_random_numbers_go_on_where_they_were():
    state = random_state(CPU)
    first = torch.rand(3)
    torch.rand(5)
    set_random_state(CPU, state)
    assert torch.equal(torch.rand(3), first)


def test_the_numbers_of_another_device_are_ignored():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    set_random_state(CPU, {"cuda": torch.zeros(16, dtype=torch.uint8)})
    assert torch.equal(torch.rand(3), expected)
