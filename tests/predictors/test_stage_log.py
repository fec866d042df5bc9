"""What a stage prints and records."""

import json
import re
import time

import pytest
import torch

from predictors.stage_log import StageLog


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("COG_LOG_LEVEL", raising=False)


@pytest.fixture
def metrics():
    return {}


@pytest.fixture
def log(metrics):
    return StageLog(metrics.__setitem__)


def test_a_stage_is_one_line_and_one_metric(log, metrics, capsys):
    started = time.monotonic()
    with log.stage("denoise"):
        pass
    assert re.fullmatch(r"denoise \d+\.\d\d s\n", capsys.readouterr().out)
    assert set(metrics) == {"timing.denoise"}
    assert 0 < metrics["timing.denoise"] <= time.monotonic() - started


@pytest.mark.parametrize(
    ("details", "shown"),
    [
        ({"cached": True}, " (cached)"),
        ({"cached": False}, ""),
        ({"hits": 0, "preset": "fast"}, " (hits 0, preset fast)"),
    ],
)
def test_details_stand_in_brackets(log, capsys, details, shown):
    with log.stage("encode_prompt") as noted:
        noted.update(details)
    assert capsys.readouterr().out.endswith(f" s{shown}\n")


def test_with_debug_the_line_is_json(metrics, capsys, monkeypatch):
    monkeypatch.setenv("COG_LOG_LEVEL", "debug")
    with StageLog(metrics.__setitem__).stage("encode_prompt") as details:
        details["cached"] = True
    line = json.loads(capsys.readouterr().out)
    assert line.pop("seconds") == pytest.approx(metrics["timing.encode_prompt"], abs=0.001)
    assert line == {"stage": "encode_prompt", "cached": True}


class Stop(BaseException):
    """What Cog's cancelling looks like from inside."""


@pytest.mark.parametrize("error", [ValueError, Stop])
def test_a_stage_that_fails_says_so_and_records_nothing(log, metrics, capsys, error):
    with pytest.raises(error), log.stage("decode"):
        raise error("a secret")
    line = capsys.readouterr().out
    assert line.startswith("decode ")
    assert line.endswith(f" (stopped by {error.__name__})\n")
    assert metrics == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_peak_of_gpu_memory_is_recorded(log, metrics, capsys):
    torch.zeros(1, device="cuda")
    with log.stage("big"):
        torch.zeros(100_000_000, dtype=torch.uint8, device="cuda")
    with log.stage("small"):
        pass
    assert 0.1 <= metrics["peak_vram_gb"] < 1
    big, small = re.findall(r"peak_vram_gb ([\d.]+)", capsys.readouterr().out)
    assert float(big) >= 0.1 > float(small)
