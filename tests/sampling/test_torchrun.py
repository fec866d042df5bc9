"""`torchrun -m sampling`: each rank its part, and together what one process makes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import main
from cli.nano import CHECKPOINTS, convert_nano
from sampling.ranks import Rank, rank_of, take_own_gpu
from weights.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# Line 2 is no clip, which rank 0 records; rank 0 has line 1 and rank 1 line 3, which takes long.
LINES = [
    {"prompt": "a red circle moving left", "num_inference_steps": 1},
    {"prompt": "a red square moving up", "num_frames": 10},
    {"prompt": "a blue triangle moving down", "num_inference_steps": 30},
]


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


def test_two_ranks_make_what_one_process_makes(tmp_path):
    """Though a rank with a failed line is done long before the other."""
    convert_nano("nano", CHECKPOINTS)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    weights = ("--weights", str(CHECKPOINTS / "nano"))
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert main(["sample", str(prompts), str(alone), *weights]) == 1

    ran = torchrun("--nproc-per-node", "2", "-m", "sampling", str(prompts), str(shared), *weights)

    assert ran.returncode == 1
    assert ran.stdout == f"{shared / 'manifest.jsonl'}\n", ran.stderr
    assert sorted(videos(shared)) == ["000001.mp4", "000003.mp4"], ran.stderr
    assert videos(shared) == videos(alone)
    assert records(shared) == records(alone)


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
