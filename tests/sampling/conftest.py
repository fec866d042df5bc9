"""Places for videos: a folder, and a bucket on moto, a real S3 server on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sampling.open_store import open_store
from sampling.output_store import OutputStore
from tests.weights.pushing.s3_servers import Bucket, S3Server, running_moto


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    with running_moto() as server:
        yield server


@pytest.fixture
def bucket(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket, with the environment that a user of it has."""
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    assert moto.gate is not None
    moto.gate.forget()
    return moto.new_bucket()


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> OutputStore:
    """An empty OUT of either kind."""
    if request.param == "folder":
        return open_store(str(tmp_path / "out"))
    return open_store(f"s3://{request.getfixturevalue('bucket').name}/runs/one")
