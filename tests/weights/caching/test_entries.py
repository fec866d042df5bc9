"""What a cache directory holds: what is ours is known, the rest is left alone."""

import shutil

import pytest

from tests.weights.caching.cached import (
    anothers_folder,
    as_stranger,
    holding,
    lora,
    names,
    put_file,
)
from weights.caching import entries as cache_entries
from weights.caching.entries import list_entries, remove_entry, sweep
from weights.caching.holds import claimed, hold, hold_path, locked, work_path
from weights.install import install


def found(root, name):
    (entry,) = (entry for entry in list_entries(root) if entry.name == name)
    return entry


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "cache"
    root.mkdir()
    return root


def test_an_install_is_an_entry_of_the_size_of_its_files(packed, root):
    install(packed, root / "w")
    entry = found(root, "w")
    assert (entry.kind, entry.owner, entry.size) == ("install", "w", packed.files_size)
    assert not entry.held
    assert entry.removable


def test_a_file_is_an_entry(root):
    put_file(root, "a", 1000, used=5)
    entry = found(root, lora("a"))
    assert (entry.kind, entry.size, entry.last_used, entry.held) == ("file", 1000, 5, False)


def test_what_is_held_or_made_is_said(packed, root):
    install(packed, root / "w")
    with hold(root / "w"):
        assert found(root, "w").held
    with locked(work_path(root / "w")):
        assert found(root, "w").held
    assert not found(root, "w").held


def test_leftovers_belong_to_their_entry(packed, root):
    install(packed, root / "w")
    hold(root / "w").release()
    shutil.copytree(root / "w", root / "w.broken.0")
    (root / "w.partial").mkdir()
    (root / "w.partial" / "half").write_bytes(bytes(10))
    kinds = {entry.name: (entry.kind, entry.owner) for entry in list_entries(root)}
    assert kinds == {
        "w": ("install", "w"),
        "w.broken.0": ("broken", "w"),
        "w.partial": ("unfinished", "w"),
    }
    with hold(root / "w"):
        # Who uses an install may also be about to go on with a fetch, and never needs a broken one.
        assert {entry.name for entry in list_entries(root) if not entry.held} == {"w.broken.0"}
    with locked(work_path(root / "w")):
        assert all(entry.held for entry in list_entries(root))


def test_holes_of_an_unfinished_file_take_no_room(root):
    hold(root / "w").release()
    (root / "w.partial").mkdir()
    with (root / "w.partial" / "shard").open("wb") as file:
        file.truncate(1 << 30)
        file.write(b"begun")
    assert found(root, "w.partial").size < 1 << 20


def test_what_a_live_process_announced_counts_until_it_is_there(root):
    with hold(root / "w") as use:
        use.announce(1000)
        announced = found(root, "w")
        assert (announced.kind, announced.size, announced.held) == ("announced", 1000, True)
        (root / "w.partial").write_bytes(bytes(300))
        assert found(root, "w").size == 700
        (root / "w.partial").write_bytes(bytes(3000))
        assert found(root, "w").size == 0
    assert names(root) == {entry.name for entry in list_entries(root)} == {"w.partial"}


def theirs(root):
    """What users may have put there, some of it named like ours."""
    (root / "photos").mkdir()
    (root / "photos" / "cat.png").write_bytes(bytes(10))
    (root / "notes.txt").write_text("theirs")
    (root / "photos.partial").mkdir()
    (root / ".photos.lock").touch()
    (root / ".photos.hold").write_text("theirs")
    (root / "photos.broken.0").mkdir()
    (root / lora("a")).write_bytes(bytes(10))
    (root / "empty").mkdir()
    return {"photos", "notes.txt", "photos.partial", "photos.broken.0", lora("a"), "empty"}


def test_what_others_put_there_is_not_ours(root):
    expected = theirs(root)
    entries = list_entries(root)
    assert {entry.name for entry in entries} == expected
    assert {(e.kind, e.size, e.last_used, e.held, e.removable) for e in entries} == {
        ("not ours", 0, None, False, False)
    }


def test_a_link_is_not_ours_wherever_it_leads(packed, root, tmp_path):
    outside = install(packed, tmp_path / "outside")
    (root / "w").symlink_to(outside)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (root / lora("a")).symlink_to(outside / "model_index.json")
    hold(root / lora("a")).release()
    assert {entry.kind for entry in list_entries(root)} == {"not ours"}


def test_removing_leaves_what_links_lead_to(packed, root, tmp_path):
    install(packed, root / "w")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "data").write_text("theirs")
    (root / "w" / "link").symlink_to(tmp_path / "outside")
    assert remove_entry(root, found(root, "w"))
    assert names(root) == set()
    assert (tmp_path / "outside" / "data").read_text() == "theirs"


def test_what_another_process_holds_is_not_removed(root):
    path = put_file(root, "a", 10, used=5)
    entry = found(root, lora("a"))
    with holding(path) as process:
        assert not remove_entry(root, entry)
        assert path.is_file()
        process.kill()
        process.wait()
        assert remove_entry(root, entry)
    assert names(root) == set()


def test_what_came_into_use_after_it_was_listed_is_not_removed(root):
    path = put_file(root, "a", 10, used=5)
    entry = found(root, lora("a"))
    with hold(path):
        assert not remove_entry(root, entry)
    assert path.is_file()


def test_a_removal_that_a_crash_cut_short_is_finished(packed, root, monkeypatch):
    install(packed, root / "w")
    hold(root / "w").release()
    put_file(root, "a", 10, used=5)
    monkeypatch.setattr(cache_entries, "_delete", lambda path: None)
    for entry in list_entries(root):
        remove_entry(root, entry)
    monkeypatch.undo()
    assert list_entries(root) == []
    assert len([path for path in root.iterdir() if ".gone." in path.name]) == 2
    sweep(root)
    assert [path.name for path in root.iterdir()] == [".lock"]


def test_sweeping_keeps_the_locks_of_what_is_there_or_in_use(root):
    path = put_file(root, "a", 10, used=5)
    (root / ".notes.hold").mkdir()
    (root / ".photos.hold").write_text("theirs")
    with hold(root / "w"):
        sweep(root)
        assert hold_path(root / "w").exists()
    sweep(root)
    assert not hold_path(root / "w").exists()
    assert (root / ".photos.hold").read_text() == "theirs"
    assert (root / ".notes.hold").is_dir()
    assert found(root, lora("a")).last_used == 5
    assert path.is_file()


def test_sweeping_keeps_the_locks_of_what_came_at_the_last_moment(root, monkeypatch):
    hold(root / "w").release()

    def late(*paths):
        (root / "w").mkdir(exist_ok=True)
        return claimed(*paths)

    monkeypatch.setattr(cache_entries, "claimed", late)
    sweep(root)
    assert hold_path(root / "w").exists()


def test_what_cannot_be_deleted_is_told_and_tried_again(root, monkeypatch, caplog):
    put_file(root, "a", 10, used=5)

    def refuse(path):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    assert remove_entry(root, found(root, lora("a")))
    assert "can't be deleted" in caplog.text
    monkeypatch.undo()
    sweep(root)
    assert not [path for path in root.iterdir() if ".gone." in path.name]


def test_a_folder_that_cannot_be_read_is_not_ours():
    with anothers_folder() as folder:
        (folder / "secret").mkdir(mode=0o000)
        with as_stranger(folder):
            assert found(folder, "secret").kind == "not ours"
        (folder / "secret").chmod(0o755)
