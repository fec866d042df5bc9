"""The golden data of the original SAT code, and the nano checkpoint."""

import shutil
from pathlib import Path

import pytest

from tests.conversion.random_checkpoint import write_random_checkpoint
from weights.variants import VARIANTS

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def golden_vae() -> Path:
    return GOLDEN / "vae" / "sat" / "vae" / "3d-vae.pt"


@pytest.fixture(scope="session")
def nano_sat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano") / "sat"
    write_random_checkpoint(VARIANTS["nano"], folder)
    return folder


@pytest.fixture
def nano_copy(nano_sat: Path, tmp_path: Path) -> Path:
    """A nano checkpoint of the test's own, to be changed."""
    shutil.copytree(nano_sat, tmp_path / "sat")
    return tmp_path / "sat"
