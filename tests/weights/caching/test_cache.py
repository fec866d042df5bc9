"""The cache directory: where it is, what is listed, and what may be removed by name."""

import pytest

from tests.weights.caching.cached import (
    anothers_folder,
    as_stranger,
    holding,
    lora,
    names,
    put_file,
)
from weights.caching.cache import Cache, cache_from_environment, read_cache, remove, used_bytes
from weights.errors import OperationError, UserError


def test_the_environment_says_where_and_how_large(tmp_path, monkeypatch):
    monkeypatch.delenv("COGVIDEOX_CACHE", raising=False)
    monkeypatch.delenv("COGVIDEOX_CACHE_LIMIT", raising=False)
    assert cache_from_environment(tmp_path) == Cache(tmp_path, None)
    monkeypatch.setenv("COGVIDEOX_CACHE", str(tmp_path / "else" / ".." / "where"))
    monkeypatch.setenv("COGVIDEOX_CACHE_LIMIT", "80GiB")
    assert cache_from_environment(tmp_path) == Cache(tmp_path / "where", 80 << 30)
    monkeypatch.setenv("COGVIDEOX_CACHE", "")
    monkeypatch.setenv("COGVIDEOX_CACHE_LIMIT", "")
    assert cache_from_environment(tmp_path) == Cache(tmp_path, None)


def test_a_limit_that_is_no_size_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("COGVIDEOX_CACHE_LIMIT", "much")
    with pytest.raises(UserError, match="COGVIDEOX_CACHE_LIMIT is 'much'"):
        cache_from_environment(tmp_path)


def test_looking_at_a_cache_that_is_not_there_makes_none(tmp_path):
    assert read_cache(Cache(tmp_path / "cache")) == []
    with pytest.raises(UserError, match="There is no 'x' in the cache"):
        remove(Cache(tmp_path / "cache"), ["x"])
    assert names(tmp_path) == set()


def test_only_our_own_bytes_are_counted(tmp_path):
    put_file(tmp_path, "a", 10, used=1)
    put_file(tmp_path, "b", 20, used=2)
    (tmp_path / "notes.txt").write_text("theirs")
    assert used_bytes(read_cache(Cache(tmp_path))) == 30


def test_entries_are_removed_by_name(tmp_path):
    for letter in "abc":
        put_file(tmp_path, letter, 10, used=1)
    removed = remove(Cache(tmp_path), [lora("a"), lora("c"), lora("a")])
    assert [entry.name for entry in removed] == [lora("a"), lora("c")]
    assert names(tmp_path) == {lora("b")}


@pytest.mark.parametrize("name", ["x", ".lock", "..", "", f"../cache/{lora('a')}", "/etc"])
def test_an_unknown_name_removes_nothing(tmp_path, name):
    put_file(tmp_path / "cache", "a", 10, used=1)
    with pytest.raises(UserError, match="There is no") as caught:
        remove(Cache(tmp_path / "cache"), [lora("a"), name])
    assert caught.value.exit_code == 2
    assert names(tmp_path / "cache") == {lora("a")}


def test_what_is_not_ours_is_not_removed(tmp_path):
    put_file(tmp_path, "a", 10, used=1)
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="was not put there by the cache"):
        remove(Cache(tmp_path), [lora("a"), "photos"])
    assert names(tmp_path) == {lora("a"), "photos"}


def test_what_a_live_process_holds_is_not_removed(tmp_path):
    path = put_file(tmp_path, "a", 10, used=1)
    put_file(tmp_path, "b", 10, used=1)
    with holding(path), pytest.raises(OperationError, match=f"uses {lora('a')}") as caught:
        remove(Cache(tmp_path), [lora("b"), lora("a")])
    assert caught.value.exit_code == 1
    assert names(tmp_path) == {lora("a"), lora("b")}
    remove(Cache(tmp_path), [lora("a")])
    assert names(tmp_path) == {lora("b")}


def test_a_file_in_place_of_the_folder_is_explained(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OperationError, match=r"can't be used.*COGVIDEOX_CACHE"):
        read_cache(Cache(tmp_path / "cache"))


def test_a_cache_that_cannot_be_written_is_listed():
    with anothers_folder() as folder:
        put_file(folder, "a", 10, used=1)
        with as_stranger(folder):
            (entry,) = read_cache(Cache(folder))
            with pytest.raises(OperationError, match="Permission denied"):
                remove(Cache(folder), [lora("a")])
        assert (entry.name, entry.size) == (lora("a"), 10)
        assert names(folder) == {lora("a")}
