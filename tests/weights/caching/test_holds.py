"""Holds: shared, freed by the kernel, and never of a file that is no longer there."""

import fcntl

import pytest

from tests.weights.caching.cached import anothers_folder, as_stranger, holding, put_file
from weights.caching.holds import announced_size, claimed, hold, hold_path, is_locked, locked


def test_several_hold_and_nobody_claims_until_the_last_releases(tmp_path):
    path = tmp_path / "x"
    first, second = hold(path), hold(path)
    for use in (first, second):
        with claimed(hold_path(path)) as free:
            assert not free
        assert is_locked(hold_path(path))
        use.release()
        use.release()
    with claimed(hold_path(path)) as free:
        assert free
    assert not is_locked(hold_path(path))


def test_a_hold_ends_with_its_block(tmp_path):
    with hold(tmp_path / "x"):
        assert is_locked(hold_path(tmp_path / "x"))
    assert not is_locked(hold_path(tmp_path / "x"))


def test_asking_whether_something_is_locked_makes_no_file(tmp_path):
    assert not is_locked(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_several_is_all_or_nothing(tmp_path):
    with locked(tmp_path / "b"):
        with claimed(tmp_path / "a", tmp_path / "b") as free:
            assert not free
        assert not is_locked(tmp_path / "a")
    with claimed(tmp_path / "a", tmp_path / "b") as free:
        assert free
        assert is_locked(tmp_path / "a")
    assert not is_locked(tmp_path / "a")


def test_a_hold_is_the_last_use(tmp_path):
    path = put_file(tmp_path, "a", 1, used=1000)
    assert hold_path(path).stat().st_mtime == 1000
    hold(path).release()
    assert hold_path(path).stat().st_mtime > 1000


def test_a_killed_process_holds_nothing(tmp_path):
    path = put_file(tmp_path, "a", 1, used=1000)
    with holding(path) as process:
        assert is_locked(hold_path(path))
        process.kill()
        process.wait()
        assert not is_locked(hold_path(path))


@pytest.mark.parametrize("again", [False, True], ids=["gone", "made again"])
def test_a_hold_file_removed_while_it_is_being_locked_is_not_taken(tmp_path, monkeypatch, again):
    """Else the holder would have a lock that nobody else ever looks at."""
    path = tmp_path / "x"
    flock = fcntl.flock
    calls = []

    def remove_first(descriptor: int, operation: int) -> None:
        if not calls:
            hold_path(path).unlink()
            if again:
                hold_path(path).touch()
        calls.append(operation)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    hold(path)
    assert len(calls) == 2
    monkeypatch.undo()
    assert is_locked(hold_path(path))


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    hold_path(tmp_path / "x").symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="Too many levels"):
        hold(tmp_path / "x")
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_an_announcement_counts_while_somebody_holds(tmp_path):
    path = tmp_path / "x"
    assert announced_size(path) == 0
    use = hold(path)
    assert announced_size(path) == 0
    use.announce(123456)
    use.announce(7)
    assert announced_size(path) == 7
    use.release()
    assert announced_size(path) == 0
    with hold(path):
        assert announced_size(path) == 7


def test_another_users_hold_file_can_be_held():
    with anothers_folder() as folder:
        hold_path(folder / "x").touch()
        with as_stranger(folder):
            with hold(folder / "x") as use:
                use.announce(1)
                assert is_locked(hold_path(folder / "x"))
            with pytest.raises(PermissionError):
                hold(folder / "y")
        assert announced_size(folder / "x") == 0
