"""What is hidden does not count, and 2 comes before 10."""

from pathlib import PurePosixPath

import pytest

from training.dataset.visible_files import (
    is_hidden,
    natural_order,
    visible_below,
    visible_entries,
)


@pytest.mark.parametrize(
    "path",
    [".DS_Store", "videos/.1.mp4.icloud", "__MACOSX/videos/._1.mp4", ".git/1.mp4", "Thumbs.db"],
)
def test_hidden_files(path):
    assert is_hidden(PurePosixPath(path))


@pytest.mark.parametrize("path", ["1.mp4", "a/b.c/1.mp4", "my clip.mp4", "__init__"])
def test_files_that_are_not_hidden(path):
    assert not is_hidden(PurePosixPath(path))


def test_numbers_count_in_names():
    names = ["10.mp4", "2.mp4", "a10/1", "a9/2", "²", "x", "1"]
    ordered = sorted(map(PurePosixPath, names), key=natural_order)
    assert [str(path) for path in ordered] == ["1", "2.mp4", "10.mp4", "a9/2", "a10/1", "x", "²"]


def test_only_visible_ones_are_listed(tmp_path):
    (tmp_path / ".cache" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in (".cache/deep/1.mp4", "a/b/10.mp4", "a/b/9.mp4", "a/.x", "z"):
        (tmp_path / name).touch()
    below = [str(path.relative_to(tmp_path)) for path in visible_below(tmp_path)]
    assert below == ["a", "a/b", "a/b/9.mp4", "a/b/10.mp4", "z"]
    assert [path.name for path in visible_entries(tmp_path)] == ["a", "z"]


def test_a_folder_below_a_hidden_one_has_no_say(tmp_path):
    folder = tmp_path / ".workspace" / "data"
    folder.mkdir(parents=True)
    (folder / "1.mp4").touch()
    assert len(list(visible_below(folder))) == len(visible_entries(folder)) == 1
