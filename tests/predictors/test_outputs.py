"""Outputs have names of their own and do not pile up."""

import os
import tempfile

import pytest

from predictors.outputs import KEEP_SECONDS, new_output, output_directory


@pytest.fixture(autouse=True)
def temporary_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_names_are_unique_and_below_one_directory():
    first, second = new_output(".mp4"), new_output(".mp4")
    assert first != second
    assert first.parent == second.parent == output_directory()
    assert first.suffix == ".mp4"


def test_old_outputs_are_removed_and_fresh_ones_stay():
    old, fresh = new_output(".mp4"), new_output(".mp4")
    old.write_bytes(b"old")
    fresh.write_bytes(b"fresh")
    age = fresh.stat().st_mtime - KEEP_SECONDS - 60
    os.utime(old, (age, age))
    new_output(".mp4")
    assert not old.exists()
    assert fresh.exists()
