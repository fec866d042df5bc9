from dataclasses import replace

import diffusers
import pytest
import torch

from conversion.component_configs import transformer_config
from weights.transformer_modules import module_shapes
from weights.variants import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_they_are_those_of_diffusers_model(name):
    variant = replace(VARIANTS[name], num_layers=2)
    with torch.device("meta"):
        model = diffusers.CogVideoXTransformer3DModel.from_config(transformer_config(variant))
    theirs = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert module_shapes(variant) == theirs


def test_every_layer_has_its_modules():
    assert len(module_shapes(VARIANTS["cogvideox-5b"])) == 6 + 42 * 8
    assert len(module_shapes(VARIANTS["cogvideox1.5-5b-i2v"])) == 8 + 42 * 8
