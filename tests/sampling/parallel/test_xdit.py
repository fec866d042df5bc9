"""The arguments for xDiT, which can't be imported here: it needs CUDA."""

import ast
import os
import zipfile
from pathlib import Path

import pytest

from predictors.memory_estimate import VideoSize
from sampling.parallel.layouts import Layout
from sampling.parallel.xdit import xdit_arguments
from weights.errors import UserError
from weights.variants import VARIANTS

VIDEO = VideoSize(49, 720, 480)
B5 = VARIANTS["cogvideox-5b"]


def test_a_layout_as_arguments():
    arguments = xdit_arguments(Path("weights"), B5, Layout(ulysses=3, cfg=2), VIDEO)
    assert arguments == {
        "model": "weights",
        "ulysses_degree": 3,
        "use_cfg_parallel": True,
        "num_frames": 49,
        "height": 480,
        "width": 720,
        "max_sequence_length": 226,
    }
    alone = xdit_arguments(Path("weights"), B5, Layout(ulysses=1, cfg=1), VIDEO)
    assert not alone["use_cfg_parallel"]


@pytest.mark.parametrize(
    ("variant", "ulysses", "message"),
    [("cogvideox-5b-i2v", 2, "text-to-video only"), ("cogvideox-5b", 4, "has 30 rows of patches")],
)
def test_what_xdit_can_not_do_is_refused(variant, ulysses, message):
    layout = Layout(ulysses=ulysses, cfg=1)
    with pytest.raises(UserError, match=message):
        xdit_arguments(Path("weights"), VARIANTS[variant], layout, VIDEO)


@pytest.mark.skipif("XFUSER_WHEEL" not in os.environ, reason="XFUSER_WHEEL names no wheel")
def test_the_wheel_has_what_is_used():
    with zipfile.ZipFile(os.environ["XFUSER_WHEEL"]) as wheel:
        arguments = wheel.read("xfuser/config/args.py").decode()
        package = wheel.read("xfuser/__init__.py").decode()
        groups = wheel.read("xfuser/core/distributed/__init__.py").decode()
        pipeline = wheel.read("xfuser/model_executor/pipelines/pipeline_cogvideox.py").decode()
    classes = {
        node.name: node for node in ast.parse(arguments).body if isinstance(node, ast.ClassDef)
    }
    fields = {
        node.target.id for node in classes["xFuserArgs"].body if isinstance(node, ast.AnnAssign)
    }
    assert fields >= set(xdit_arguments(Path("w"), B5, Layout(ulysses=1, cfg=1), VIDEO))
    assert "def create_config(" in arguments
    assert '"xFuserArgs"' in package
    assert '"xFuserCogVideoXPipeline"' in package
    assert '"get_world_group"' in groups
    assert "engine_config: EngineConfig" in pipeline
