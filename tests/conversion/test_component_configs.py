import diffusers
import pytest
import torch
from safetensors.torch import load_file

from conversion import component_configs, vae_rules
from weights.variants import VARIANTS


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda v: v.name)
def test_configs_state_every_option_of_their_classes(variant):
    vae = component_configs.vae_config(variant, vae_rules.architecture_of(variant))
    for config in (
        component_configs.transformer_config(variant),
        vae,
        component_configs.scheduler_config(variant),
    ):
        with torch.device("meta"):
            built = getattr(diffusers, config["_class_name"]).from_config(config)
        ours = {name: value for name, value in config.items() if not name.startswith("_")}
        theirs = {name: value for name, value in built.config.items() if not name.startswith("_")}
        assert ours == theirs


@pytest.mark.parametrize(("name", "shift"), [("cogvideox-2b", 3), ("cogvideox-5b", 1)])
def test_schedule_is_sats(name, shift, golden):
    tables = load_file(golden / "schedule.safetensors")
    config = component_configs.scheduler_config(VARIANTS[name])
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    theirs = tables[f"shift{shift}.sqrt_alphas_cumprod"]
    torch.testing.assert_close(scheduler.alphas_cumprod.sqrt().float(), theirs, atol=1e-6, rtol=0)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == tables[f"shift{shift}.steps50.timesteps"].tolist()
