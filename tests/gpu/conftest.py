"""Checks that only a CUDA device can make: marked `gpu`, and counted as skipped without one.

On the machine with the device, whose Python and libraries may be other versions:
`python3 -m pytest tests/gpu`. The models are random, as nothing can be fetched there; needed beside
torch and transformers are diffusers, av and, for int8, torchao.
"""

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            # Another version of a library may warn of what ours does not.
            item.add_marker(pytest.mark.filterwarnings("default"))
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))
