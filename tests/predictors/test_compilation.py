"""Compiled blocks: a graph serves many of them, and the video is the same."""

import diffusers
import numpy as np
import pytest
import torch

from predictors.compilation import compile_blocks, compile_wanted
from predictors.placement import place
from tests.predictors.test_placement import policy, video
from weights.errors import UserError


@pytest.fixture
def counting_backend():
    """Counts the graphs it is given and runs them as they are: no code is built."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    yield backend, graphs
    torch._dynamo.reset()


def pipeline(folder, placement="resident", backend=None):
    pipe = diffusers.CogVideoXPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if backend:
        compile_blocks(pipe.transformer, backend)
    place(pipe, policy(placement))
    return pipe


@pytest.mark.parametrize("placement", ["resident", "model-offload"])
def test_two_graphs_serve_all_blocks_and_give_the_same_video(
    tiny_folder, counting_backend, placement
):
    backend, graphs = counting_backend
    expected = video(pipeline(tiny_folder))
    pipe = pipeline(tiny_folder, placement, backend)
    assert np.array_equal(video(pipe), expected)
    assert np.array_equal(video(pipe), expected)
    # The first block is given two views of one tensor; all others whole tensors.
    assert len(graphs) == 2
    assert len(pipe.transformer.transformer_blocks) == 4


def test_groups_that_are_offloaded_can_be_compiled(tiny_folder, counting_backend):
    backend, graphs = counting_backend
    expected = video(pipeline(tiny_folder))
    pipe = pipeline(tiny_folder, "group-offload", backend)
    assert np.array_equal(video(pipe), expected)
    assert graphs


@pytest.mark.parametrize(("value", "wanted"), [("", False), ("0", False), ("1", True)])
def test_the_environment_says_so(value, wanted):
    environment = {"COGVIDEOX_COMPILE": value, "CC": "/bin/sh"}
    assert compile_wanted(environment) is wanted


def test_other_values_are_refused():
    with pytest.raises(UserError, match="COGVIDEOX_COMPILE is 'yes'"):
        compile_wanted({"COGVIDEOX_COMPILE": "yes"})


def test_without_a_c_compiler_it_is_refused_at_once(tmp_path):
    environment = {"COGVIDEOX_COMPILE": "1", "PATH": str(tmp_path)}
    with pytest.raises(UserError, match="there is no C compiler"):
        compile_wanted(environment)
    (tmp_path / "gcc").touch(mode=0o755)
    assert compile_wanted(environment)
