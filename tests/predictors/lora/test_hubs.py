"""What a hub says becomes the URL of one file that never changes, or an error that helps."""

import json
from contextlib import closing

import pytest

from predictors.lora.hubs import file_url
from predictors.lora.source import CivitaiModel, HubRepo, LoraPlaces, WebFile
from tests.predictors.guarding import allowing
from tests.weights.fetching import faults
from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.surroundings import check_message
from weights.errors import OperationError, UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def web():
    with closing(FaultyServer()) as server, allowing("127.0.0.1"):
        yield server


@pytest.fixture
def places(web):
    return LoraPlaces(hugging_face=web.url, civitai=web.url)


@pytest.fixture
def repo(web):
    """Puts a repository of these files on the hub, as `owner/repo` at `main`."""

    def put(*files: str) -> None:
        document = {
            "id": "owner/repo",
            "sha": COMMIT,
            "siblings": [{"rfilename": file} for file in files],
        }
        web.serve("/api/models/owner/repo/revision/main", json.dumps(document).encode())

    return put


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["README.md", "a.safetensors"], "a.safetensors"),
        (["a.safetensors", "pytorch_lora_weights.safetensors"], "pytorch_lora_weights.safetensors"),
        (["lora.bin", "d/é b.safetensors"], "d/%C3%A9%20b.safetensors"),
    ],
)
def test_a_repositorys_lora_is_found_and_pinned(web, places, repo, files, chosen):
    repo(*files)
    url = file_url(HubRepo("owner/repo"), places)
    assert url == f"{web.url}/owner/repo/resolve/{COMMIT}/{chosen}"


def test_a_named_file_is_pinned(web, places, repo):
    repo("a.safetensors", "d/b.safetensors")
    url = file_url(HubRepo("owner/repo", file="d/b.safetensors"), places)
    assert url == f"{web.url}/owner/repo/resolve/{COMMIT}/d/b.safetensors"


def test_a_file_of_a_commit_needs_no_question(web, places):
    url = file_url(HubRepo("owner/repo", COMMIT, "b.safetensors"), places)
    assert url == f"{web.url}/owner/repo/resolve/{COMMIT}/b.safetensors"
    assert not web.requests


def test_a_branch_with_a_slash_is_asked_for_in_one_piece(web, places):
    with pytest.raises(UserError, match="HTTP 404"):
        file_url(HubRepo("owner/repo", "refs/pr/1"), places)
    assert web.requests[0].path == "/api/models/owner/repo/revision/refs%2Fpr%2F1"


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ([], HubRepo("owner/repo"), "has no .safetensors file.*Use another repository"),
        (["lora.bin"], HubRepo("owner/repo"), "has no .safetensors file"),
        (
            ["a.safetensors", "b.safetensors"],
            HubRepo("owner/repo"),
            "has 2 .safetensors files.*owner/repo/FILE with one of: a.safetensors, b.safetensors",
        ),
        (
            ["a.safetensors"],
            HubRepo("owner/repo", file="b.safetensors"),
            "has no b.safetensors.*with one of: a.safetensors",
        ),
        ([f"{n:02}.safetensors" for n in range(40)], HubRepo("owner/repo"), "07.safetensors, …"),
    ],
)
def test_what_is_not_there_is_told(places, repo, files, source, message):
    repo(*files)
    with pytest.raises(UserError, match=message) as error:
        file_url(source, places)
    check_message(error.value)


def test_the_newest_version_of_a_civitai_model_is_taken(web, places):
    versions = [{"id": 456, "name": "v2"}, {"id": 123, "name": "v1"}]
    web.serve("/api/v1/models/7", json.dumps({"id": 7, "modelVersions": versions}).encode())
    assert file_url(CivitaiModel(7), places) == f"{web.url}/api/download/models/456"


def test_a_file_on_the_web_is_itself(places):
    assert file_url(WebFile("https://files.test/x"), places) == "https://files.test/x"


@pytest.mark.parametrize("status", [401, 404])
def test_a_repository_that_is_not_for_everyone_is_told(web, places, status):
    web.fault(faults.status(status))
    for source in (HubRepo("owner/repo"), CivitaiModel(7)):
        with pytest.raises(UserError, match=f"HTTP {status}") as error:
            file_url(source, places)
        check_message(error.value, "on purpose")


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"sha": 1, "siblings": []}',
        b'{"sha": "a", "siblings": [{}]}',
        b'{"sha": "a", "siblings": [{"rfilename": 1}]}',
        b'{"sha": "a", "siblings": 1}',
        b'{"modelVersions": []}',
        b'{"modelVersions": [{"id": "1/../../x"}]}',
        b'{"modelVersions": [{"id": true}]}',
        b'{"modelVersions": {}}',
        b"\xff",
    ],
)
def test_an_odd_answer_is_told(web, places, answer):
    web.serve("/api/models/owner/repo/revision/main", answer)
    web.serve("/api/v1/models/7", answer)
    for source in (HubRepo("owner/repo"), CivitaiModel(7)):
        with pytest.raises(OperationError, match="something else than a description") as error:
            file_url(source, places)
        check_message(error.value)
