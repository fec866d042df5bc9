"""COGVIDEOX_WEIGHTS may be a folder, a lock or a variant's name; anything else is explained."""

import json
import shutil

import pytest

from predictors import weights_source
from predictors.weights_source import resolve_weights
from tests.weights.caching.cached import ended, start
from weights.caching.cache import Cache, read_cache
from weights.caching.room import prune
from weights.errors import UserError
from weights.lock import write_lock
from weights.packing.tarball import pack

RESOLVE = """
import sys
from predictors.weights_source import resolve_weights
print("ready", resolve_weights(sys.argv[1], "t2v").folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "weights")


@pytest.fixture
def locks(tmp_path, monkeypatch):
    """Two empty lock directories, ours first, and an empty cache."""
    directories = (tmp_path / "ours", tmp_path / "bundled")
    for directory in directories:
        directory.mkdir()
    monkeypatch.setattr(weights_source, "LOCK_DIRECTORIES", directories)
    monkeypatch.setenv("COGVIDEOX_CACHE", str(tmp_path / "cache"))
    return directories


def test_a_folder_is_checked_and_used_where_it_is(folder):
    ready = resolve_weights(str(folder), "t2v")
    assert (ready.folder, ready.variant.name, ready.dtype) == (folder, "nano", "float32")


def test_a_folder_of_plain_diffusers_is_recognised_by_its_numbers(folder):
    (folder / "conversion.json").unlink()
    assert resolve_weights(str(folder), "t2v").variant.name == "nano"


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_a_folder_without_text_encoder_is_explained(folder, part):
    """`convert` writes such a folder where it is given no T5."""
    shutil.rmtree(folder / part)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {part: [None, None]}))
    with pytest.raises(UserError, match=f"has no {part}/.*--text-encoder"):
        resolve_weights(str(folder), "t2v")


def test_an_unknown_architecture_is_refused(folder):
    (folder / "conversion.json").unlink()
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_layers": 5}))
    with pytest.raises(UserError, match=r"no variant we know \(num_layers 5"):
        resolve_weights(str(folder), "t2v")


def test_a_lock_is_installed_once_into_the_cache(folder, locks, tmp_path):
    lock = packed(folder, tmp_path)
    first = resolve_weights(str(lock), "t2v")
    assert first.folder.parent == tmp_path / "cache"
    assert (first.folder / "model_index.json").is_file()
    (tmp_path / "nano.tar").unlink()
    assert resolve_weights(str(lock), "t2v") == first


def test_what_is_resolved_is_held_until_the_process_is_gone(folder, locks, tmp_path):
    lock = packed(folder, tmp_path)
    cache = Cache(tmp_path / "cache")
    with ended(start(RESOLVE, lock)) as process:
        while (line := process.stdout.readline()) and not line.startswith("ready"):
            pass
        (entry,) = read_cache(cache)
        assert (line.split()[1:], entry.held) == ([str(cache.root / entry.name)], True)
        assert prune(Cache(cache.root, 0))[0] == []
        process.kill()
        process.wait()
        assert [e.name for e in prune(Cache(cache.root, 0))[0]] == [entry.name]


def test_an_install_that_does_not_serve_is_not_held(folder, locks, tmp_path):
    (folder / "conversion.json").write_text('{"variant": "nano-i2v", "dtype": "float32"}')
    with pytest.raises(UserError, match="a model for i2v"):
        resolve_weights(str(packed(folder, tmp_path)), "t2v")
    (entry,) = read_cache(Cache(tmp_path / "cache"))
    assert not entry.held


def test_a_folder_is_neither_held_nor_cached(folder, locks, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    resolve_weights(str(folder), "t2v")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_limit_of_the_cache_is_obeyed(folder, locks, tmp_path, monkeypatch):
    monkeypatch.setenv("COGVIDEOX_CACHE_LIMIT", "1MB")
    with pytest.raises(UserError, match=r"too much for the cache .* limit is 1\.0 MB"):
        resolve_weights(str(packed(folder, tmp_path)), "t2v")


def test_a_name_finds_our_lock_before_the_bundled_one(folder, locks, tmp_path):
    lock = packed(folder, tmp_path)
    ours, bundled = (directory / "nano.lock.json" for directory in locks)
    fields = json.loads(lock.read_text()) | {"url": (tmp_path / "nano.tar").as_uri()}
    bundled.write_text("{}")
    ours.write_text(json.dumps(fields))
    assert resolve_weights("nano", "t2v").variant.name == "nano"
    ours.rename(bundled)
    assert resolve_weights("nano", "t2v").variant.name == "nano"


def test_nano_without_a_lock_says_how_to_make_it(locks):
    with pytest.raises(UserError, match="Run `cogvideox nano`"):
        resolve_weights("nano", "t2v")


def test_another_name_without_a_lock_says_the_ways_on(locks):
    with pytest.raises(UserError, match="Convert and pack the weights"):
        resolve_weights("cogvideox-2b", "t2v")


@pytest.mark.parametrize("source", ["/nowhere", "nowhere.lock.json", "cogvideox-9b", "~"])
def test_what_is_not_there_is_said(source):
    with pytest.raises(UserError, match="there is nothing of that name"):
        resolve_weights(source, "t2v")


def test_a_folder_that_holds_no_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a weights folder"):
        resolve_weights(str(tmp_path), "t2v")


def test_weights_for_the_other_task_are_refused(folder):
    (folder / "conversion.json").write_text('{"variant": "nano-i2v", "dtype": "float32"}')
    with pytest.raises(UserError, match=r"nano-i2v, a model for i2v.*This predictor is for t2v"):
        resolve_weights(str(folder), "t2v")


def test_weights_for_any_task_are_found_where_it_does_not_matter(folder):
    (folder / "conversion.json").write_text('{"variant": "nano-i2v", "dtype": "float32"}')
    assert resolve_weights(str(folder), None).variant.name == "nano-i2v"


def test_a_name_for_the_other_task_is_refused_before_anything_is_fetched(locks):
    with pytest.raises(UserError, match="a model for i2v"):
        resolve_weights("cogvideox-5b-i2v", "t2v")


def packed(folder, directory):
    write_lock(pack(folder, directory / "nano.tar"), directory / "nano.lock.json")
    return directory / "nano.lock.json"
