"""A file that Cog fetches for a request is there whole, or not at all."""

import base64
import os
import tempfile
import time
from contextlib import closing

import cog
import pytest

from predictors.outputs import KEEP_SECONDS, output_directory
from predictors.received_files import limit_received_files
from tests.predictors.guarding import Target, allowing
from tests.weights.fetching import faults
from tests.weights.fetching.faulty_server import FaultyServer
from weights.errors import UserError

DATA = b"an image" * 1000


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where temporary files of the test lie; Cog's own download comes back afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cog.URLPath, "convert", cog.URLPath.convert)
    monkeypatch.setattr(cog.Path, "validate", cog.Path.validate)
    limit_received_files()
    with allowing("127.0.0.1"):
        yield tmp_path


def files(folder):
    """All files at any depth."""
    return [path for path in folder.rglob("*") if not path.is_dir()]


@pytest.fixture
def web():
    with closing(FaultyServer()) as server:
        server.serve("/image.png", DATA)
        yield server


def test_what_a_url_gives_is_a_file_with_its_ending(web, folder):
    path = cog.Path.validate(f"{web.url}/image.png").convert()
    assert path.read_bytes() == DATA
    assert path.name.endswith("image.png")
    assert files(folder) == [path]


@pytest.mark.parametrize("uri", ["data:x", "data:text/plain;base64,abc", "http://[", "data:"])
def test_a_malformed_uri_is_explained(uri):
    with pytest.raises(ValueError, match=r"neither a URL nor a data URI.+ is expected.+Correct it"):
        cog.Path.validate(uri)


def test_what_a_cancelled_request_left_goes_with_a_later_one(web, folder):
    """Cog downloads in a thread that goes on, and then nobody asks for the file."""
    abandoned = cog.Path.validate(f"{web.url}/image.png").convert()
    assert abandoned.parent == output_directory()
    long_ago = time.time() - KEEP_SECONDS - 60
    os.utime(abandoned, (long_ago, long_ago))
    fresh = cog.Path.validate(f"{web.url}/image.png").convert()
    assert files(folder) == [fresh]


def test_a_second_question_downloads_nothing(web):
    url_path = cog.Path.validate(f"{web.url}/image.png")
    assert url_path.convert() == url_path.convert()
    assert len(web.asked("/image.png")) == 1


def test_a_data_uri_is_a_file(folder):
    uri = "data:image/png;base64," + base64.b64encode(DATA).decode()
    path = cog.Path.validate(uri).convert()
    assert path.read_bytes() == DATA
    assert path.suffix == ".png"


@pytest.mark.parametrize("fault", [faults.cut, faults.status(404), faults.no_answer, faults.reset])
def test_a_failed_download_leaves_nothing(web, folder, fault):
    web.fault(fault)
    with pytest.raises(UserError):
        cog.Path.validate(f"{web.url}/image.png").convert()
    assert files(folder) == []


def test_a_refused_address_leaves_nothing(folder):
    with closing(Target()) as target:
        with pytest.raises(UserError, match="not on the public internet"):
            cog.Path.validate(f"http://127.0.0.2:{target.port}/image.png").convert()
        assert not target.was_reached()
    assert files(folder) == []


def test_what_is_too_large_is_refused_and_leaves_nothing(web, folder):
    limit_received_files(limit_bytes=len(DATA) - 1)
    uri = "data:image/png;base64," + base64.b64encode(DATA).decode()
    for source in (f"{web.url}/image.png", uri):
        with pytest.raises(UserError, match=r"gives more than|A file in the request has"):
            cog.Path.validate(source).convert()
    assert files(folder) == []
