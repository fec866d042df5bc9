"""The tiny variants, built once, and one thread for tests that run models."""

import pytest
import torch

from tests.training.finetuning.tiny_variants import VARIANT_OF_GOLDEN, tiny_variant


@pytest.fixture(scope="session")
def tiny_variants():
    """Every tiny variant, by the name of its golden data."""
    return {golden: tiny_variant(golden) for golden in VARIANT_OF_GOLDEN}


@pytest.fixture(scope="module")
def one_thread():
    """Models this small gain nothing by more, and lose much where others have the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
