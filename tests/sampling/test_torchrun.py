"""`torchrun -m sampling`: each rank its part, and together what one process makes."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from cli.main import main
from cli.nano import CHECKPOINTS, convert_nano
from sampling.__main__ import main as sample_as_rank
from sampling.ranks import Rank, rank_of, take_own_gpu, wait_for_all
from weights.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# Line 2 is no clip, which rank 0 records; rank 0 has line 1 and rank 1 line 3.
LINES = [
    {"prompt": "a red circle moving left", "num_inference_steps": 1},
    {"prompt": "a red square moving up", "num_frames": 10},
    {"prompt": "a blue triangle moving down", "num_inference_steps": 1},
]
# Rank 1 is at work long after rank 0.
UNEVEN = [*LINES[:2], LINES[2] | {"num_inference_steps": 30}]


def prompt_file(folder, lines):
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def torchrun(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )


def videos(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".mp4"}


def records(out):
    found = map(json.loads, (out / "manifest.jsonl").read_text().splitlines())
    return sorted(
        ({**record, "seconds": None} for record in found), key=lambda record: record["line"]
    )


def test_ranks_make_what_one_process_makes(tiny_folder, tmp_path, monkeypatch, capsys):
    prompts, weights = prompt_file(tmp_path, LINES), ("--weights", str(tiny_folder))
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert main(["sample", prompts, str(alone), *weights]) == 1
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    codes, made = [], []
    monkeypatch.setenv("LOCAL_RANK", "0")  # each has a machine of its own
    for rank in ("0", "1", "0"):
        monkeypatch.setenv("RANK", rank)
        capsys.readouterr()
        codes.append(sample_as_rank([prompts, str(shared), *weights]))
        made.append(sorted(videos(shared)))
    said = capsys.readouterr()

    assert codes == [1, 0, 1]
    assert made == [["000001.mp4"], *[["000001.mp4", "000003.mp4"]] * 2]
    # Though nothing was left to do.
    assert said.out == f"{shared / 'manifest.jsonl'}\n"
    assert f"Line 2: {prompts}, line 2: num_frames is 10" in said.err
    assert videos(shared) == videos(alone)
    assert records(shared) == records(alone)


@pytest.mark.slow
def test_a_rank_waits_for_the_others_under_torchrun(tmp_path):
    """Though it has a failed line, and with it an exit code that ends them, and is done before."""
    convert_nano("nano", CHECKPOINTS)
    prompts = prompt_file(tmp_path, UNEVEN)
    weights = ("--weights", str(CHECKPOINTS / "nano"))
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert main(["sample", prompts, str(alone), *weights]) == 1

    ran = torchrun("--nproc-per-node", "2", "-m", "sampling", prompts, str(shared), *weights)

    assert ran.returncode == 1
    assert ran.stdout == f"{shared / 'manifest.jsonl'}\n", ran.stderr
    assert sorted(videos(shared)) == ["000001.mp4", "000003.mp4"], ran.stderr
    assert videos(shared) == videos(alone)
    assert records(shared) == records(alone)


def test_ranks_wait_for_each_other_anew_after_a_restart(monkeypatch):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "of a test")
    monkeypatch.setattr("sampling.ranks._POLL", 0.01)
    for restart in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restart)
        looked = threading.Event()
        monkeypatch.setattr("time.sleep", lambda _seconds, looked=looked: looked.set())
        first = threading.Thread(target=wait_for_all, args=(Rank(0, 2, 0),), daemon=True)
        first.start()
        assert looked.wait(60)
        assert first.is_alive()
        wait_for_all(Rank(1, 2, 1))
        first.join(60)
        assert not first.is_alive()


def test_a_rank_is_what_torchrun_says():
    environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}

    assert rank_of(environment) == Rank(5, 8, 1)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"RANK": "-1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"RANK": "first", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
    ],
)
def test_without_torchrun_it_says_how_to_start(environment):
    with pytest.raises(UserError, match="torchrun --nproc-per-node"):
        rank_of(environment)


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [(None, 0, None), (None, 4, "2"), ("7,5,3,1", 4, "3"), ("", 0, "")],
)
def test_a_rank_sees_its_own_gpu_only(monkeypatch, visible, count, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")  # put back afterwards
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    take_own_gpu(Rank(2, 4, 2))

    assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match="there are 2 GPUs"):
        take_own_gpu(Rank(3, 4, 3))
