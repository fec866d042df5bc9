"""Going on from a state gives the same bits as never having stopped."""

import copy

import pytest
import torch

from training.ema import Ema
from training.finetuning.checkpoint import averaged_state, restore, trainable_state, training_state


def model_and_optimizer(seed):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 3))
    torch.manual_seed(7)
    frozen = torch.nn.Linear(4, 4)
    model[0].load_state_dict(frozen.state_dict())
    model[0].requires_grad_(False)
    trainable = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(trainable, lr=1e-2, weight_decay=1e-2)


def train(model, optimizer, ema, steps):
    for step in steps:
        optimizer.zero_grad()
        model(torch.full((2, 4), float(step + 1))).pow(2).mean().backward()
        optimizer.step()
        if ema:
            ema.update(model)


def test_the_state_holds_what_is_trained_and_nothing_frozen():
    model, _ = model_and_optimizer(0)
    assert set(trainable_state(model)) == {"1.weight", "1.bias"}


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_restored_training_goes_on_to_the_same_bits(decay):
    model, optimizer = model_and_optimizer(0)
    ema = Ema(model, decay) if decay else None
    train(model, optimizer, ema, range(3))
    state = copy.deepcopy(training_state(model, optimizer, ema, None))
    train(model, optimizer, ema, range(3, 6))

    other, its_optimizer = model_and_optimizer(1)
    its_ema = Ema(other, decay) if decay else None
    restore(state, other, its_optimizer, its_ema, None)
    train(other, its_optimizer, its_ema, range(3, 6))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    if ema:
        averages = averaged_state(model, ema), averaged_state(other, its_ema)
        assert averages[0].keys() == averages[1].keys() == {"1.weight", "1.bias"}
        assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])


def test_taking_the_averages_leaves_the_model_as_it_is():
    model, optimizer = model_and_optimizer(0)
    ema = Ema(model, 0.9)
    train(model, optimizer, ema, range(2))
    before = copy.deepcopy(model.state_dict())
    averages = averaged_state(model, ema)
    assert not torch.equal(averages["1.weight"], before["1.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_state_survives_a_file_that_is_read_as_tensors_only(tmp_path):
    model, optimizer = model_and_optimizer(0)
    train(model, optimizer, None, range(1))
    torch.save(training_state(model, optimizer, None, None), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    restore(state, model, optimizer, None, None)
