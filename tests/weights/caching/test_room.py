"""Making room: the least recently used first, nothing held, and nothing in vain."""

import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.weights.caching.cached import (
    disk_usage_of,
    ended,
    held,
    holding,
    lora,
    names,
    put_file,
    start,
)
from weights.caching.cache import Cache, CacheError, alone, read_cache, used_bytes
from weights.caching.entries import list_entries
from weights.caching.holds import hold, hold_path, locked, work_path
from weights.caching.room import keep_within_limit, make_room, prune
from weights.errors import OperationError
from weights.install import install


def room(cache: Cache, name: str, size: int) -> None:
    with alone(cache):
        make_room(cache, name, size)


@pytest.fixture
def disk(monkeypatch):
    """A function that gives the disk a size; what is in the cache is all there is on it."""
    return lambda size: monkeypatch.setattr(shutil, "disk_usage", disk_usage_of(size))


def test_nothing_goes_while_there_is_room(tmp_path):
    put_file(tmp_path, "a", 10, used=1)
    room(Cache(tmp_path), "new", 10**6)
    room(Cache(tmp_path, 20), "new", 10)
    assert names(tmp_path) == {lora("a")}


def test_the_least_recently_used_goes_first_and_no_more_than_needed(tmp_path):
    for letter, used in zip("abcd", (3, 1, 4, 2), strict=True):
        put_file(tmp_path, letter, 10, used=used)
    room(Cache(tmp_path, 40), "new", 11)
    assert names(tmp_path) == {lora("a"), lora("c")}


def test_leftovers_go_before_anything_that_is_whole(packed, tmp_path):
    root = tmp_path / "cache"
    install(packed, root / "w").rename(root / "w.broken.0")
    size = used_bytes(list_entries(root))
    put_file(root, "a", 10, used=1)
    room(Cache(root, size + 10), "new", 5)
    assert names(root) == {lora("a")}


def test_what_is_held_stays_though_it_is_the_oldest(tmp_path):
    for letter, used in zip("abc", (1, 2, 3), strict=True):
        put_file(tmp_path, letter, 10, used=used)
    with holding(tmp_path / lora("a")):
        os.utime(hold_path(tmp_path / lora("a")), (1, 1))
        room(Cache(tmp_path, 30), "new", 5)
    assert names(tmp_path) == {lora("a"), lora("c")}


def test_where_there_can_be_no_room_nothing_goes_and_it_is_said_why(tmp_path):
    put_file(tmp_path, "a", 1_000_000, used=1)
    put_file(tmp_path, "b", 2_000_000, used=2)
    (tmp_path / "photos").mkdir()
    with holding(tmp_path / lora("b")), pytest.raises(OperationError) as caught:
        room(Cache(tmp_path, 3_500_000), "new", 1_800_000)
    message = str(caught.value)
    for part in (
        "new (1.8 MB)",
        "300.0 kB more",
        "limit of 3.5 MB",
        f"{lora('b')} (2.0 MB)",
    ):
        assert part in message
    assert lora("a") not in message
    assert "COGVIDEOX_CACHE_LIMIT" in message
    assert names(tmp_path) == {lora("a"), lora("b"), "photos"}


def test_a_full_disk_is_made_room_on_as_well(tmp_path, disk):
    for letter, used in zip("abc", (1, 2, 3), strict=True):
        put_file(tmp_path, letter, 10, used=used)
    disk(35)
    room(Cache(tmp_path), "new", 15)
    assert names(tmp_path) == {lora("b"), lora("c")}
    with hold(tmp_path / lora("c")), pytest.raises(OperationError, match="1 byte more"):
        room(Cache(tmp_path), "new", 26)
    assert names(tmp_path) == {lora("b"), lora("c")}


def test_what_has_to_stay_free_on_the_disk_counts_there_and_not_against_the_limit(tmp_path, disk):
    for letter, used in zip("ab", (1, 2), strict=True):
        put_file(tmp_path, letter, 10, used=used)
    disk(100)
    cache = Cache(tmp_path, 35)
    with alone(cache):
        make_room(cache, "new", 15, spare=65)
        assert names(tmp_path) == {lora("a"), lora("b")}
        make_room(cache, "new", 15, spare=66)
        assert names(tmp_path) == {lora("b")}
        with pytest.raises(CacheError, match="1 byte more"):
            make_room(cache, "new", 15, spare=86)


def test_what_an_unfinished_install_has_already_is_not_needed_again(tmp_path, disk):
    put_file(tmp_path, "a", 10, used=1)
    hold(tmp_path / "new").release()
    (tmp_path / "new.partial").write_bytes(bytes(15))
    disk(30)
    room(Cache(tmp_path, 30), "new", 20)
    assert names(tmp_path) == {lora("a"), "new.partial"}
    room(Cache(tmp_path, 30), "new", 21)
    assert names(tmp_path) == {"new.partial"}


@pytest.mark.parametrize("limit", [40, None])
def test_what_others_are_about_to_write_is_counted(tmp_path, disk, limit):
    disk(40)
    put_file(tmp_path, "a", 10, used=1)
    with hold(tmp_path / "theirs") as use:
        use.announce(20)
        room(Cache(tmp_path, limit), "new", 10)
        assert names(tmp_path) == {lora("a")}
        room(Cache(tmp_path, limit), "theirs", 20)
        assert names(tmp_path) == {lora("a")}
        room(Cache(tmp_path, limit), "new", 20)
        assert names(tmp_path) == set()
        with pytest.raises(OperationError, match=r"theirs \(20 bytes\)"):
            room(Cache(tmp_path, limit), "new", 21)
    room(Cache(tmp_path, limit), "new", 40)


def test_a_damaged_install_of_the_same_name_goes_first(packed, tmp_path):
    root = tmp_path / "cache"
    install(packed, root / "w")
    put_file(root, "a", 10, used=1)
    size = packed.files_size
    room(Cache(root, 2 * size + 10), "w", size)
    assert names(root) == {lora("a"), "w"}
    room(Cache(root, size + 10), "w", size)
    assert names(root) == {lora("a")}


def test_what_cannot_be_moved_is_passed_over(tmp_path, monkeypatch, caplog):
    for letter, used in zip("abc", (1, 2, 3), strict=True):
        put_file(tmp_path, letter, 10, used=used)
    rename = type(tmp_path).rename

    def refuse(path, target):
        if path.name == lora("a"):
            raise OSError(16, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr("pathlib.Path.rename", refuse)
    room(Cache(tmp_path, 30), "new", 5)
    assert names(tmp_path) == {lora("a"), lora("c")}
    assert "busy" in caplog.text


def test_what_grew_beyond_the_limit_pushes_others_out_or_is_refused(tmp_path):
    put_file(tmp_path, "a", 10, used=1)
    cache = Cache(tmp_path, 30)
    with hold(put_file(tmp_path, "b", 25, used=2)), alone(cache):
        keep_within_limit(cache, lora("b"))
    assert names(tmp_path) == {lora("b")}
    cache = Cache(tmp_path, 24)
    with (
        hold(tmp_path / lora("b")),
        alone(cache),
        pytest.raises(OperationError, match="1 byte more"),
    ):
        keep_within_limit(cache, lora("b"))


def test_pruning_removes_leftovers_and_what_is_over_the_limit(packed, tmp_path):
    root = tmp_path / "cache"
    install(packed, root / "w").rename(root / "w.broken.0")
    (root / "w.partial").mkdir()
    hold(root / "w").release()
    put_file(root, "a", 10, used=1)
    put_file(root, "b", 10, used=2)
    (root / "photos.partial").mkdir()
    removed, kept = prune(Cache(root))
    assert {entry.name for entry in removed} == {"w.broken.0", "w.partial"}
    assert {entry.name for entry in kept} == {lora("a"), lora("b"), "photos.partial"}
    removed, kept = prune(Cache(root, 10))
    assert [entry.name for entry in removed] == [lora("a")]
    assert names(root) == {lora("b"), "photos.partial"}


def test_pruning_leaves_alone_what_a_live_process_works_on(tmp_path):
    (tmp_path / "w.partial").mkdir()
    hold(tmp_path / "w").release()
    with locked(work_path(tmp_path / "w")):
        assert prune(Cache(tmp_path, 0))[0] == []
    with hold(tmp_path / "w"):
        assert prune(Cache(tmp_path, 0))[0] == []
    assert names(tmp_path) == {"w.partial"}
    assert [entry.name for entry in prune(Cache(tmp_path, 0))[0]] == ["w.partial"]


def test_pruning_goes_as_far_as_what_is_held_allows(tmp_path):
    for letter, used in zip("abc", (1, 2, 3), strict=True):
        put_file(tmp_path, letter, 10, used=used)
    with holding(tmp_path / lora("b")):
        removed, kept = prune(Cache(tmp_path, 5))
    assert {entry.name for entry in removed} == {lora("a"), lora("c")}
    assert [(entry.name, entry.held) for entry in kept] == [(lora("b"), True)]


def test_an_emptied_cache_is_empty(tmp_path):
    for letter in "abc":
        put_file(tmp_path, letter, 10, used=1)
    prune(Cache(tmp_path, 0))
    assert {path.name for path in tmp_path.iterdir()} <= {
        ".lock",
        *(f".{lora(x)}.{kind}" for x in "abc" for kind in ("hold", "lock")),
    }
    prune(Cache(tmp_path, 0))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_there_is_nothing_to_prune_where_there_is_no_cache(tmp_path):
    assert prune(Cache(tmp_path / "cache", 0)) == ([], [])
    assert names(tmp_path) == set()


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 50), max_size=6),
    in_use=st.sets(st.integers(0, 5)),
    limit=st.integers(0, 200),
    size=st.integers(0, 100),
)
def test_room_is_made_exactly_when_it_can_be(tmp_path_factory, sizes, in_use, limit, size):
    root = tmp_path_factory.mktemp("cache")
    paths = [put_file(root, f"{n}", s, used=n + 1) for n, s in enumerate(sizes)]
    uses = [hold(path) for n, path in enumerate(paths) if n in in_use]
    fixed = sum(s for n, s in enumerate(sizes) if n in in_use)
    try:
        room(Cache(root, limit), "new", size)
    except OperationError:
        assert fixed + size > limit
        assert names(root) == {path.name for path in paths}
    else:
        assert used_bytes(list_entries(root)) + size <= limit
        gone = [n for n, path in enumerate(paths) if not path.exists()]
        assert not in_use & set(gone)
        # The oldest went, and without the last of them it would have been too much.
        stayed = [n for n in range(len(paths)) if n not in gone and n not in in_use]
        assert not gone or not stayed or max(gone) < min(stayed)
        if gone:
            assert used_bytes(list_entries(root)) + sizes[max(gone)] + size > limit
    finally:
        for use in uses:
            use.release()


PRUNE = """
import sys
from pathlib import Path
from weights.caching.cache import Cache
from weights.caching.room import prune
print("ready", flush=True)
sys.stdin.readline()
removed, kept = prune(Cache(Path(sys.argv[1]), int(sys.argv[2])))
print(*(entry.name for entry in removed))
"""


def test_a_held_entry_survives_another_process_until_its_holder_is_killed(tmp_path):
    path = put_file(tmp_path, "a", 10, used=1)
    with holding(path) as holder:
        with ended(start(PRUNE, tmp_path, 0)) as pruner:
            assert pruner.communicate("go\n", timeout=60)[0].split() == ["ready"]
        assert path.is_file()
        assert held(tmp_path) == {path.name}
        holder.kill()
        holder.wait()
        with ended(start(PRUNE, tmp_path, 0)) as pruner:
            assert pruner.communicate("go\n", timeout=60)[0].split() == ["ready", path.name]
    assert names(tmp_path) == set()


def test_two_that_evict_at_once_evict_no_more_than_one_would(tmp_path):
    for letter in "0123456789":
        put_file(tmp_path, letter, 10, used=int(letter) + 1)
    with ended(start(PRUNE, tmp_path, 50)) as one, ended(start(PRUNE, tmp_path, 50)) as other:
        for process in (one, other):
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):
            process.stdin.write("go\n")
            process.stdin.flush()
        gone = [*one.communicate(timeout=60)[0].split(), *other.communicate(timeout=60)[0].split()]
    assert sorted(gone) == [lora(letter) for letter in "01234"]
    assert names(tmp_path) == {lora(letter) for letter in "56789"}


def test_a_cache_is_listed_while_others_use_it(tmp_path):
    with holding(tmp_path / lora("a")):
        (entry,) = read_cache(Cache(tmp_path))
    assert (entry.name, entry.held) == (lora("a"), True)
