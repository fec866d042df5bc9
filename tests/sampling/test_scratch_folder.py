"""Scratch folders go with their run; those of killed runs with the next."""

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
    stranger = tmp_path / "cogvideox-prompts-of-something-else"
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
