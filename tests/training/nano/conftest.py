"""One thread for tests that train.

Models this small gain nothing by more, and lose much where other processes have the cores.
"""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
