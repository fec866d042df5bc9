import json

import pytest

from conversion.file_digest import written_file
from conversion.resumable_folder import partial_path, resumable_folder
from weights.errors import UserError


def leave_one_file(destination, fingerprint="work"):
    def work():
        with resumable_folder(destination, fingerprint=fingerprint, resume=False) as folder:
            (folder.path / "a").write_text("done")
            folder.record(written_file(folder.path, "a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()


def test_the_folder_gets_its_name_and_loses_its_journal(tmp_path):
    with resumable_folder(tmp_path / "out", fingerprint="work", resume=False) as folder:
        (folder.path / "a").write_text("done")
        folder.record(written_file(folder.path, "a"))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_recorded_files_are_found_complete(tmp_path):
    leave_one_file(tmp_path / "out")
    with resumable_folder(tmp_path / "out", fingerprint="work", resume=True) as folder:
        assert list(folder.complete) == ["a"]


@pytest.mark.parametrize("content", ["cut", "gone"])
def test_a_file_of_other_bytes_is_not_complete(content, tmp_path):
    leave_one_file(tmp_path / "out")
    (partial_path(tmp_path / "out") / "a").write_text(content)
    with resumable_folder(tmp_path / "out", fingerprint="work", resume=True) as folder:
        assert folder.complete == {}


@pytest.mark.parametrize("journal", ["", "{", "[]", '{"fingerprint": "work"}'])
def test_a_damaged_journal_counts_for_nothing(journal, tmp_path):
    leave_one_file(tmp_path / "out")
    (partial_path(tmp_path / "out") / ".journal.json").write_text(journal)
    with resumable_folder(tmp_path / "out", fingerprint="work", resume=True) as folder:
        assert folder.complete == {}


def test_other_work_is_not_taken_up_and_not_destroyed(tmp_path):
    leave_one_file(tmp_path / "out", "other work")
    with (
        pytest.raises(UserError, match="--resume"),
        resumable_folder(tmp_path / "out", fingerprint="work", resume=True),
    ):
        pytest.fail("it must not open")
    journal = json.loads((partial_path(tmp_path / "out") / ".journal.json").read_text())
    assert journal["fingerprint"] == "other work"


def test_nothing_to_resume_is_a_fresh_start(tmp_path):
    with resumable_folder(tmp_path / "out", fingerprint="work", resume=True) as folder:
        assert folder.complete == {}
