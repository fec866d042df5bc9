"""Scratch folders go with their run; those of killed runs with the next."""

import os
import subprocess
import sys
import tempfile

import pytest

from cli.runners import ROOT
from sampling.scratch_folder import scratch_folder

HOLD = """
import sys
from sampling.scratch_folder import scratch_folder
with scratch_folder() as folder:
    (folder / "embeddings").write_bytes(bytes(1000))
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_a_folder_is_gone_in_the_end_also_after_an_error(tmp_path):
    def interrupted():
        with scratch_folder() as folder:
            (folder / "a").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_what_is_in_use_stays(tmp_path):
    stranger = tmp_path / "cogvideox-sample-of-something-else"
    stranger.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=ROOT, stdin=-1, stdout=-1, text=True
    ) as process:
        folder = process.stdout.readline().strip()
        with scratch_folder() as ours:
            assert {path.name for path in tmp_path.iterdir()} == {
                stranger.name,
                ours.name,
                folder.rpartition("/")[2],
            }
        process.kill()
        process.wait()
        with scratch_folder() as ours:
            assert set(tmp_path.iterdir()) == {stranger, ours}


def test_the_lock_goes_last_so_that_a_removal_cut_short_is_finished_by_the_next(monkeypatch):
    removed = []
    real = os.unlink

    def unlink(path, *args, **options):
        removed.append(os.fspath(path).rpartition("/")[2])
        real(path, *args, **options)

    names = [f"prompts-{number}" for number in range(20)]
    with scratch_folder() as folder:
        for name in names:
            (folder / name).touch()
        monkeypatch.setattr("os.unlink", unlink)
    assert sorted(removed) == sorted([*names, ".in-use"])
    assert removed[-1] == ".in-use"


def test_a_place_of_ones_own_is_used_and_swept(tmp_path):
    place = tmp_path / "place"
    left = place / "cogvideox-sample-killed"
    left.mkdir(parents=True)
    (left / ".in-use").touch()
    (left / "000001.mp4").touch()
    with scratch_folder(place) as ours:
        assert set(place.iterdir()) == {ours}
    assert list(place.iterdir()) == []
