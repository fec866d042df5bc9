"""The schedule is SAT's."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from training.noise_schedule import alphas_cumprod

TABLES = load_file(Path(__file__).parents[1] / "golden" / "schedule.safetensors")


@pytest.mark.parametrize("shift", [1, 3])
def test_the_table_is_sats(shift):
    expected = TABLES[f"shift{shift}.sqrt_alphas_cumprod"].double()
    assert (alphas_cumprod(shift).sqrt() - expected).abs().max() < 1e-6
