"""AdamW as torch's own, in one kernel on a GPU and plain on a CPU."""

import pytest
import torch

from training.finetuning.optimizer import check_optimizer, new_optimizer, set_learning_rate
from training.finetuning.settings import FinetuneSettings
from weights.errors import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def parameters():
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 4), (8,)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def stepped(made, optimizer):
    for step in range(3):
        for parameter in made:
            parameter.grad = torch.full_like(parameter, 0.1 * (step + 1))
        optimizer.step()
    return [parameter.detach() for parameter in made]


def test_a_cpu_gets_the_bits_of_plain_adamw_with_decay_for_matrices_alone():
    settings = FinetuneSettings(learning_rate=0.1, weight_decay=0.5)
    ours, plain = parameters(), parameters()
    groups = [{"params": plain[:1], "weight_decay": 0.5}, {"params": plain[1:], "weight_decay": 0}]
    expected = stepped(plain, torch.optim.AdamW(groups, lr=0.1, betas=settings.betas, eps=1e-8))
    found = stepped(ours, new_optimizer(ours, settings, CPU))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_gpu_gets_the_fused_kernel_which_agrees_with_it():
    """torch has that kernel for CPUs too, where it can be compared."""
    settings = FinetuneSettings(learning_rate=0.1)
    plain, fused = parameters(), parameters()
    optimizer = new_optimizer(fused, settings, CUDA)
    assert all(group["fused"] for group in optimizer.param_groups)
    expected = stepped(plain, new_optimizer(plain, settings, CPU))
    for found, wanted in zip(stepped(fused, optimizer), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def test_the_learning_rate_is_that_of_all_parameters():
    optimizer = new_optimizer(parameters(), FinetuneSettings(), CPU)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_eight_bits_are_for_gpus():
    settings = FinetuneSettings(eight_bit_optimizer=True)
    check_optimizer(settings, CUDA)
    with pytest.raises(UserError, match="--eight-bit-optimizer is asked for on the device cpu"):
        new_optimizer(parameters(), settings, CPU)
