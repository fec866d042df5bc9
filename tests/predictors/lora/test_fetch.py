"""A LoRA is downloaded once, checked before it is kept, and held while it is used."""

import gzip
import json
import resource
import shutil
import threading
from contextlib import closing

import pytest

from predictors.lora import fetch
from predictors.lora.fetch import fetch_lora
from predictors.lora.source import LoraPlaces
from tests.predictors.guarding import allowing
from tests.weights.caching.cached import disk_usage_of
from tests.weights.conftest import shard
from tests.weights.fetching import faults
from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.fetching.hostile_tars import honest_tar
from tests.weights.surroundings import check_message
from weights.caching.cache import Cache, read_cache
from weights.caching.use import SPARE_BYTES
from weights.errors import OperationError, UserError

LORA, NEWER = shard("lora_A"), shard("lora_newer")
COMMITS = ("0" * 40, "1" * 40)


@pytest.fixture
def web():
    with closing(FaultyServer()) as server, allowing("127.0.0.1"):
        server.serve("/lora", LORA)
        yield server


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def fetched(cache, web):
    """The bytes that `lora` means."""
    places = LoraPlaces(hugging_face=web.url, civitai=web.url)

    def get(text: str) -> bytes:
        with fetch_lora(text, cache, places) as use:
            assert [entry.held for entry in read_cache(cache)].count(True) == 1
            return use.path.read_bytes()

    return get


def test_a_url_is_downloaded_once(web, fetched, cache):
    for text in (f"{web.url}/lora?sig=SECRET", f" {web.url}/lora?sig=SECRET#top"):
        assert fetched(text) == LORA
    assert len(web.asked("/lora")) == 1
    (entry,) = read_cache(cache)
    assert (entry.kind, entry.held) == ("file", False)
    assert "SECRET" not in entry.name


def test_another_query_is_another_file(web, fetched, cache):
    fetched(f"{web.url}/lora?a=1")
    fetched(f"{web.url}/lora?a=2")
    assert len(read_cache(cache)) == 2


def test_two_at_once_download_once(web, fetched, cache):
    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(fetch_lora(f"{web.url}/lora", cache, LoraPlaces()))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({use.path for use in results}) == 1
    assert len(web.asked("/lora")) == 1
    for use in results:
        use.release()


def test_a_trainers_tarball_is_unpacked(web, fetched):
    tar = honest_tar({"output/config.yaml": b"rank: 16", "output/lora.safetensors": LORA}).data
    web.serve("/trained.tar", tar)
    web.serve("/trained.tgz", gzip.compress(tar))
    assert fetched(f"{web.url}/trained.tar") == fetched(f"{web.url}/trained.tgz") == LORA


def test_a_repository_is_asked_for_its_newest_commit(web, fetched):
    def commit(sha: str) -> None:
        siblings = [{"rfilename": "a.safetensors"}]
        document = json.dumps({"sha": sha, "siblings": siblings})
        web.serve("/api/models/owner/repo/revision/main", document.encode())

    for sha, data in zip(COMMITS, (LORA, NEWER), strict=True):
        web.serve(f"/owner/repo/resolve/{sha}/a.safetensors", data)
    commit(COMMITS[0])
    assert fetched("owner/repo") == fetched("owner/repo/a.safetensors") == LORA
    assert len(web.asked(f"/owner/repo/resolve/{COMMITS[0]}/a.safetensors")) == 1
    commit(COMMITS[1])
    assert fetched("owner/repo") == NEWER


def test_what_is_no_lora_is_not_kept(web, fetched, cache):
    web.serve("/page", b"<html>Sign in</html>")
    with pytest.raises(UserError, match="is a web page") as error:
        fetched(f"{web.url}/page?sig=SECRET")
    check_message(error.value, "SECRET", str(cache.root))
    assert read_cache(cache) == []


def test_what_broke_is_not_kept_and_can_be_had_again(web, fetched, cache):
    web.fault(faults.cut, times=1)
    with pytest.raises(OperationError, match="ended early"):
        fetched(f"{web.url}/lora")
    assert read_cache(cache) == []
    assert fetched(f"{web.url}/lora") == LORA


def test_the_length_that_a_server_makes_too_small_is_noticed(web, fetched, cache):
    web.fault(faults.with_headers(Content_Length="60"))
    with pytest.raises(UserError, match="is not a whole"):
        fetched(f"{web.url}/lora")
    assert read_cache(cache) == []


def test_a_lora_larger_than_the_cache_is_not_downloaded(web, tmp_path):
    small = Cache(tmp_path / "small", limit=50)
    with pytest.raises(UserError, match="gives more than 50 bytes"):
        fetch_lora(f"{web.url}/lora", small, LoraPlaces())
    assert read_cache(small) == []


def test_there_is_a_limit_without_one_of_the_cache(web, fetched, monkeypatch):
    monkeypatch.setattr(fetch, "LIMIT_BYTES", 50)
    with pytest.raises(UserError, match="gives more than 50 bytes"):
        fetched(f"{web.url}/lora")


def test_a_local_file_is_used_where_it_is(tmp_path, cache):
    (tmp_path / "a.safetensors").write_bytes(LORA)
    places = LoraPlaces((tmp_path,))
    with fetch_lora(f"{tmp_path}/a.safetensors", cache, places) as use:
        assert use.path == tmp_path / "a.safetensors"
    assert not cache.root.exists()


def test_a_disk_without_room_is_said(web, fetched, cache):
    """No file of this process may grow beyond a few bytes: to it, that is a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
        with pytest.raises(OperationError, match=r"can't be kept \(File too large") as error:
            fetched(f"{web.url}/lora?sig=SECRET")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    check_message(error.value, "SECRET")
    assert read_cache(cache) == []


@pytest.fixture
def disk(monkeypatch):
    """A function that makes the disk one for so many LoRAs, beside what has to stay free."""

    def give(count: int) -> None:
        size = SPARE_BYTES + count * len(LORA)
        monkeypatch.setattr(shutil, "disk_usage", disk_usage_of(size))

    return give


@pytest.mark.parametrize("limit", [None, 10**9])
def test_ever_new_urls_do_not_fill_the_disk(web, tmp_path, disk, limit):
    cache = Cache(tmp_path / "cache", limit)
    disk(2)
    paths = []
    for number in range(4):
        with fetch_lora(f"{web.url}/lora?{number}", cache, LoraPlaces()) as use:
            paths.append(use.path)
    assert [path.exists() for path in paths] == [False, False, True, True]


def test_what_the_cache_says_of_itself_is_for_the_operator_only(web, cache, disk, capfd):
    disk(1)
    with (
        fetch_lora(f"{web.url}/lora?1", cache, LoraPlaces()) as held,
        pytest.raises(OperationError, match="can't be kept") as error,
    ):
        fetch_lora(f"{web.url}/lora?sig=SECRET", cache, LoraPlaces())
    check_message(error.value, "SECRET", str(cache.root), held.path.name)
    assert "the server's log says why" in str(error.value)
    logged = capfd.readouterr().err
    assert f"{web.url}/lora was not kept. There is no room" in logged
    assert held.path.name in logged
    assert "SECRET" not in logged


def test_a_cache_that_cannot_be_used_is_not_named(web, tmp_path, capfd):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OperationError, match="can't be kept") as error:
        fetch_lora(f"{web.url}/lora", Cache(tmp_path / "cache"), LoraPlaces())
    check_message(error.value, str(tmp_path))
    assert f"The cache {tmp_path}/cache can't be used" in capfd.readouterr().err
