"""Outputs have names of their own, do not pile up, and lie where only we can write."""

import os
import stat
import tempfile

import numpy as np
import pytest

from predictors.outputs import KEEP_SECONDS, new_output, output_directory
from predictors.video import OUTPUT_FORMATS, write_video
from weights.errors import OperationError


@pytest.fixture(autouse=True)
def temporary_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def make_old(path):
    age = path.lstat().st_mtime - KEEP_SECONDS - 60
    os.utime(path, (age, age), follow_symlinks=False)


def test_names_are_unique_and_below_one_directory():
    first, second = new_output(".mp4"), new_output(".gif")
    assert first.stem != second.stem
    assert first.parent == second.parent == output_directory()
    assert (first.suffix, second.suffix) == (".mp4", ".gif")


def test_the_name_says_what_it_is():
    assert new_output(".mp4").name.startswith("video-")
    assert new_output(".tar", "lora").name.startswith("lora-")


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_a_video_lies_there_alone(output_format):
    path = new_output(f".{output_format}")
    write_video(np.zeros((2, 16, 16, 3), np.uint8), path, fps=8, output_format=output_format)
    assert list(output_directory().iterdir()) == [path]


def test_old_files_are_removed_and_fresh_ones_stay():
    old, fresh = new_output(".mp4"), new_output(".mp4")
    half_written = old.with_name(f"{old.name}.tmp.4711")
    for path in (old, fresh, half_written):
        path.write_bytes(b"content")
    link = old.with_name("link")
    link.symlink_to("nowhere")
    for path in (old, half_written, link):
        make_old(path)
    new_output(".mp4")
    assert list(output_directory().iterdir()) == [fresh]


def test_what_is_no_file_does_not_stop_the_sweep():
    folder = new_output(".mp4").with_name("folder")
    folder.mkdir()
    make_old(folder)
    new_output(".mp4")
    assert folder.exists()


def test_nobody_else_can_look_into_it(tmp_path):
    directory = new_output(".mp4").parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    directory.chmod(0o777)
    new_output(".mp4")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_link_in_its_place_is_refused_and_what_it_leads_to_is_left_alone(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_bytes(b"content")
    make_old(victim / "precious")
    output_directory().symlink_to(victim)
    with pytest.raises(OperationError, match=r"not a directory of this server's own.*TMPDIR"):
        new_output(".mp4")
    assert (victim / "precious").exists()


def test_a_file_or_a_link_to_nowhere_in_its_place_is_refused(tmp_path):
    for prepare in (output_directory().write_bytes, lambda _: output_directory().symlink_to("no")):
        prepare(b"")
        with pytest.raises(OperationError, match="not a directory of this server's own"):
            new_output(".mp4")
        output_directory().unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused():
    output_directory().mkdir()
    os.chown(output_directory(), 12345, -1)
    with pytest.raises(OperationError, match="not a directory of this server's own"):
        new_output(".mp4")
