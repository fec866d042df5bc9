"""What tests of predictors leave behind is nothing."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _gradients_as_before() -> Iterator[None]:
    """Whoever is cancelled just before the end of `torch.no_grad` leaves gradients off.

    A server wants none anyway; the tests of training, in the same process, do.
    """
    enabled = torch.is_grad_enabled()
    yield
    torch.set_grad_enabled(enabled)
