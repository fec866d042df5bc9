"""Installs and files come into the cache whole, with room for them, and stay while in use."""

import contextlib
import dataclasses
import gc
import random
import shutil
import subprocess
import threading

import pytest

from tests.weights.caching.cached import (
    anothers_folder,
    as_stranger,
    disk_usage_of,
    ended,
    held,
    holding,
    lora,
    names,
    put_file,
    start,
)
from weights.caching import use as cache_use
from weights.caching.cache import Cache, CacheError, read_cache, used_bytes
from weights.caching.entries import list_entries
from weights.caching.holds import hold_path, locked
from weights.caching.room import prune
from weights.caching.use import SPARE_BYTES, reserve, use_file, use_install
from weights.errors import OperationError, UserError
from weights.install_check import check_install
from weights.lock import Lock, write_lock


def unpinned(lock: Lock) -> Lock:
    return dataclasses.replace(lock, size=None, digest=None, files=())


def fail(*_: object) -> None:
    pytest.fail("it began")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "cache"


def test_an_install_comes_into_the_cache_and_is_held(packed, root):
    use = use_install(Cache(root), packed)
    assert use.path == root / f"nano-{packed.digest[7:19]}"
    assert check_install(use.path).set_digest == packed.set_digest
    (entry,) = read_cache(Cache(root))
    assert (entry.name, entry.kind, entry.held) == (use.path.name, "install", True)
    assert prune(Cache(root, 0))[0] == []
    use.release()
    assert [entry.name for entry in prune(Cache(root, 0))[0]] == [use.path.name]


def test_a_use_that_nobody_refers_to_lasts(packed, root):
    name = use_install(Cache(root), packed).path.name
    gc.collect()
    assert held(root) == {name}


def test_an_install_that_is_there_is_used_again(packed, root, tmp_path):
    use_install(Cache(root), packed).release()
    (tmp_path / "weights.tar").unlink()
    with use_install(Cache(root, 1), packed, progress=fail) as use:
        assert held(root) == {use.path.name}


def test_locks_are_kept_apart_by_their_digests(packed, root):
    split = dataclasses.replace(
        packed,
        size=None,
        digest=None,
        url="weights/",
        files=tuple(dataclasses.replace(file, offset=None) for file in packed.files),
    )
    for lock in (packed, split, unpinned(packed)):
        use_install(Cache(root), lock).release()
    digests = (packed.digest, packed.set_digest)
    assert names(root) == {"nano-unpinned", *(f"nano-{digest[7:19]}" for digest in digests)}


def test_a_damaged_install_is_made_anew(packed, root):
    use = use_install(Cache(root), packed)
    (use.path / "vae" / "config.json").unlink()
    with use_install(Cache(root), packed) as again:
        assert check_install(again.path).set_digest == packed.set_digest
    assert names(root) == {use.path.name, f"{use.path.name}.broken.0"}


def test_a_damaged_install_gives_its_room_to_the_new_one(packed, root):
    cache = Cache(root, packed.files_size)
    with use_install(cache, packed) as use:
        (use.path / "vae" / "config.json").unlink()
    with use_install(cache, packed) as again:
        assert check_install(again.path).set_digest == packed.set_digest
    assert names(root) == {use.path.name}


def test_weights_larger_than_the_limit_are_refused_before_anything_starts(packed, root):
    put_file(root, "a", 10, used=1)
    limit = packed.files_size - 1
    with pytest.raises(UserError, match=r"nano-.* has .*, 1 byte too much.*COGVIDEOX_CACHE_LIMIT"):
        use_install(Cache(root, limit), packed, progress=fail)
    with pytest.raises(UserError, match=r"has 11 bytes, .* Its limit is 10 bytes"):
        use_file(Cache(root, 10), lora("b"), 11, fail)
    assert names(root) == {lora("a")}
    with use_install(Cache(root, limit + 1), packed):
        assert lora("a") not in names(root)


def test_an_install_takes_the_room_of_what_was_not_used_for_longest(packed, root):
    for letter, used in zip("abc", (2, 1, 3), strict=True):
        put_file(root, letter, 100, used=used)
    with use_install(Cache(root, packed.files_size + 200), packed) as use:
        assert names(root) == {lora("a"), lora("c"), use.path.name}
        assert used_bytes(list_entries(root)) == packed.files_size + 200


def test_without_room_nothing_is_fetched_and_nothing_is_lost(packed, root):
    put_file(root, "a", 100, used=1)
    with holding(root / lora("b")):
        size = (root / lora("b")).stat().st_size
        cache = Cache(root, packed.files_size + size - 1)
        with pytest.raises(OperationError, match=rf"1 byte more .* hold {lora('b')}"):
            use_install(cache, packed, progress=fail)
    assert names(root) == {lora("a"), lora("b")}


def test_what_an_install_would_refuse_costs_nobody_a_place(packed, root):
    put_file(root, "a", 100, used=1)
    cache = Cache(root, packed.files_size)
    with pytest.raises(UserError, match="where its tarball is"):
        use_install(cache, dataclasses.replace(packed, url=None))
    (root / f"nano-{packed.digest[7:19]}").mkdir()
    (root / f"nano-{packed.digest[7:19]}" / "notes.txt").write_text("theirs")
    with pytest.raises(UserError, match="was not made by an install"):
        use_install(cache, packed)
    assert lora("a") in names(root)


def test_a_failed_install_holds_and_announces_nothing(packed, root, tmp_path):
    (tmp_path / "weights.tar").write_bytes(b"damaged")
    with pytest.raises(OperationError):
        use_install(Cache(root), packed)
    assert [entry for entry in list_entries(root) if entry.held] == []
    prune(Cache(root))
    assert {path.name for path in root.iterdir()} == {".lock"}


def test_an_unpinned_install_pushes_others_out_afterwards(packed, root):
    put_file(root, "a", 100, used=1)
    with use_install(Cache(root, packed.files_size), unpinned(packed)) as use:
        assert names(root) == {use.path.name} == {"nano-unpinned"}


def test_an_unpinned_install_that_turns_out_too_large_is_not_kept(packed, root):
    put_file(root, "a", 100, used=1)
    with pytest.raises(OperationError, match=r"nano-unpinned \(.*\).*1 byte more"):
        use_install(Cache(root, packed.files_size - 1), unpinned(packed))
    assert names(root) == {lora("a")}
    assert held(root) == set()


def test_a_cache_that_cannot_be_written_serves_what_is_in_it(packed):
    with anothers_folder() as folder:
        use_install(Cache(folder), packed).release()
        shutil.rmtree(folder / ".lock", ignore_errors=True)
        hold_path(folder / f"nano-{packed.digest[7:19]}").unlink()
        with as_stranger(folder), use_install(Cache(folder), packed) as use:
            assert check_install(use.path).set_digest == packed.set_digest
        with as_stranger(folder), pytest.raises(OperationError, match="can't be used"):
            use_file(Cache(folder), lora("a"), 1, fail)


def test_a_file_is_written_once_and_held(root):
    with use_file(Cache(root), lora("a"), 5, lambda file: file.write(b"hello")) as use:
        assert use.path == root / lora("a")
        assert use.path.read_bytes() == b"hello"
        assert held(root) == {use.path.name}
    use_file(Cache(root), lora("a"), 5, fail).release()
    use_file(Cache(root), lora("a"), None, fail).release()
    assert held(root) == set()


def test_a_file_that_became_shorter_is_written_again(root):
    path = put_file(root, "a", 5, used=1)
    path.write_bytes(b"hell")
    with use_file(Cache(root), lora("a"), 5, lambda file: file.write(b"hello")):
        assert path.read_bytes() == b"hello"


def test_what_a_killed_process_left_of_a_file_is_written_anew(root, tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    root.mkdir()
    (root / f"{lora('a')}.partial").write_bytes(b"half of something")
    (root / f"{lora('b')}.partial").symlink_to(tmp_path / "theirs")
    for letter in "ab":
        with use_file(Cache(root), lora(letter), 5, lambda file: file.write(b"hello")) as use:
            assert use.path.read_bytes() == b"hello"
    assert names(root) == {lora("a"), lora("b")}
    assert (tmp_path / "theirs").read_text() == "theirs"


@pytest.mark.parametrize("data", [b"", b"hell", b"hello!"])
def test_a_file_of_another_size_is_not_kept(root, data):
    with pytest.raises(OperationError, match="5 bytes were expected"):
        use_file(Cache(root), lora("a"), 5, lambda file: file.write(data))
    assert names(root) == held(root) == set()


def test_a_file_whose_filling_fails_is_not_kept(root):
    def break_off(file):
        file.write(b"half")
        raise ConnectionResetError("the other side")

    for size in (5, None):
        with pytest.raises(ConnectionResetError, match="the other side"):
            use_file(Cache(root), lora("a"), size, break_off)
    assert names(root) == held(root) == set()


def test_a_file_of_unknown_size_obeys_the_limit_afterwards(root):
    put_file(root, "a", 100, used=1)
    with use_file(Cache(root, 100), lora("b"), None, lambda file: file.write(bytes(50))):
        assert names(root) == {lora("b")}
    with pytest.raises(OperationError, match=r"150 bytes.*50 bytes more"):
        use_file(Cache(root, 100), lora("c"), None, lambda file: file.write(bytes(150)))
    assert names(root) == {lora("b")}


@pytest.mark.parametrize(("limit", "too_much"), [(250, 200), (None, SPARE_BYTES + 200)])
def test_room_is_made_as_soon_as_the_size_is_known(root, monkeypatch, limit, too_much):
    cache = Cache(root, limit)
    for letter, used in zip("ab", (1, 2), strict=True):
        put_file(root, letter, 100, used=used)
    monkeypatch.setattr(shutil, "disk_usage", disk_usage_of(SPARE_BYTES + 250))
    partial = f"{lora('c')}.partial"

    def fill(file):
        reserve(cache, lora("c"), 50)
        assert names(root) == {lora("a"), lora("b"), partial}
        reserve(cache, lora("c"), 51)
        assert names(root) == {lora("b"), partial}
        # Others know of it.
        with pytest.raises(CacheError, match=rf"1 byte more .* hold .*{lora('c')} \(51 bytes\)"):
            use_file(cache, lora("d"), too_much, fail)
        file.write(bytes(51))
        with pytest.raises(CacheError, match="1 byte more"):
            reserve(cache, lora("c"), 251)
        assert names(root) == {lora("b"), partial}

    with use_file(cache, lora("c"), None, fill):
        assert used_bytes(read_cache(cache)) == 151


@pytest.mark.parametrize(
    "name", ["x", "lora-1.safetensors", "lora-" + "g" * 12 + ".safetensors", "../" + lora("a")]
)
def test_a_file_of_another_name_is_a_mistake(root, name):
    with pytest.raises(ValueError, match="no name of a file"):
        use_file(Cache(root), name, 1, fail)


# Several processes.

USE = """
import sys
from pathlib import Path
from weights.caching.cache import Cache
from weights.caching.use import use_install
from weights.lock import read_lock
print("ready", flush=True)
use = use_install(Cache(Path(sys.argv[1])), read_lock(Path(sys.argv[2])))
print(use.path.name, flush=True)
sys.stdin.read()
"""


def served(packed, server, tmp_path):
    """A lock whose url sends the first half, and then waits to be told to go on."""
    url, halfway, go_on = server.serve_halves("/w.tar", (tmp_path / "weights.tar").read_bytes())
    lock = dataclasses.replace(unpinned(packed), url=url)
    write_lock(lock, tmp_path / "served.lock.json")
    return tmp_path / "served.lock.json", halfway, go_on


def test_what_a_process_installs_is_its_own_until_it_is_killed(packed, server, root, tmp_path):
    lock_file, halfway, go_on = served(packed, server, tmp_path)
    with ended(start(USE, root, lock_file)) as process:
        assert halfway.wait(60)
        assert prune(Cache(root, 0))[0] == []
        assert [(e.kind, e.held) for e in read_cache(Cache(root))] == [("unfinished", True)]
        process.kill()
        process.wait()
        go_on.set()
        assert [entry.kind for entry in prune(Cache(root))[0]] == ["unfinished"]
    assert names(root) == set()
    prune(Cache(root))
    assert {path.name for path in root.iterdir()} == {".lock"}


def test_two_that_want_the_same_install_both_hold_it(packed, server, root, tmp_path):
    lock_file, halfway, go_on = served(packed, server, tmp_path)
    with ended(start(USE, root, lock_file)) as one:
        assert halfway.wait(60)
        with ended(start(USE, root, lock_file)) as other:
            assert other.stdout.readline() == "ready\n"
            go_on.set()
            assert other.stdout.readline() == "nano-unpinned\n"
            one.kill()
            one.wait()
            assert held(root) == {"nano-unpinned"}
        other.wait()
    assert held(root) == set()


def test_an_install_is_room_taken_from_its_first_moment(packed, root, tmp_path):
    """Two processes that begin at once must not both be told that there is room."""
    cache = Cache(root, packed.files_size + 99)
    asked = []

    def compete(count: int) -> None:
        if not asked:
            asked.append(count)
            with pytest.raises(OperationError, match=r"1 byte more .* hold nano-"):
                use_file(cache, lora("a"), 100, fail)
            use_file(cache, lora("b"), 99, lambda file: file.write(bytes(99))).release()

    with use_install(cache, packed, progress=compete) as use:
        assert asked
        assert names(root) == {lora("b"), use.path.name}


def test_two_that_want_the_same_file_write_it_once(root, monkeypatch):
    waiting = threading.Event()
    calls = []

    def recorded(path):
        calls.append(path)
        if len(calls) == 2:
            waiting.set()
        return locked(path)

    monkeypatch.setattr(cache_use, "locked", recorded)
    other = threading.Thread(target=use_file, args=(Cache(root), lora("a"), 5, fail))

    def fill(file):
        other.start()
        assert waiting.wait(60)
        file.write(b"hello")

    with use_file(Cache(root), lora("a"), 5, fill) as use:
        other.join()
        assert use.path.read_bytes() == b"hello"
    assert held(root) == {use.path.name}


USE_FILES = """
import random, sys
from pathlib import Path
from weights.caching.cache import Cache, read_cache, used_bytes
from weights.caching.room import prune
from weights.caching.use import use_file
from weights.errors import OperationError

seed, root, rounds = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
choose = random.Random(seed)

def fill(file):
    for _ in range(10):
        file.write(letter.encode() * 100)
        file.flush()

print("ready", flush=True)
for _ in range(rounds):
    letter = choose.choice("abcdef")
    name = f"lora-{letter * 12}.safetensors"
    try:
        use = use_file(Cache(root, 4000), name, 1000, fill)
    except OperationError as error:
        assert "more would be needed" in str(error), error
        continue
    with use:
        for _ in range(3):
            assert use.path.read_bytes() == letter.encode() * 1000
        assert used_bytes(read_cache(Cache(root))) <= 4000
        if choose.random() < 0.3:
            prune(Cache(root, 1000))
print("done")
"""


def test_what_is_used_is_whole_whatever_others_evict_and_whoever_is_killed(root):
    choose = random.Random(0)
    with (
        ended(start(USE_FILES, 1, root, 60)) as one,
        ended(start(USE_FILES, 2, root, 60)) as two,
    ):
        for seed in range(3, 9):
            with ended(start(USE_FILES, seed, root, 1000)) as victim:
                assert victim.stdout.readline() == "ready\n"
                with contextlib.suppress(subprocess.TimeoutExpired):
                    victim.wait(choose.random() / 20)
        for process in (one, two):
            assert process.communicate(timeout=60)[0] == "ready\ndone\n"
            assert process.returncode == 0
    prune(Cache(root, 0))
    prune(Cache(root, 0))
    assert {path.name for path in root.iterdir()} == {".lock"}
