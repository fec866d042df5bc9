"""SAT → diffusers → SAT and back again, bit for bit, over random tiny models of every variant."""

from dataclasses import replace

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from conversion import transformer_rules, vae_rules
from conversion.convert import convert
from conversion.plan import ConversionOptions, plan_conversion
from conversion.rules import source_shapes
from conversion.sat_writer import model_yaml, plan_sat, write_sat
from weights.variants import VARIANTS

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@st.composite
def tiny(draw, variant):
    """A variant of the same family with small numbers."""
    time_embed_dim = draw(st.integers(1, 6))
    return replace(
        variant,
        num_layers=draw(st.integers(1, 3)),
        num_heads=draw(st.integers(1, 2)),
        time_embed_dim=time_embed_dim,
        # The offset embedding is added to the time embedding: both have one width.
        ofs_embed_dim=None if variant.ofs_embed_dim is None else time_embed_dim,
        text_embed_dim=draw(st.integers(1, 6)),
        text_tokens=draw(st.integers(1, 8)),
        sample_frames=draw(st.sampled_from([1, 5, 9])),
        sample_height=2 * draw(st.integers(1, 3)),
        sample_width=2 * draw(st.integers(1, 3)),
        vae_channels=tuple(draw(st.lists(st.sampled_from([2, 4]), min_size=4, max_size=4))),
        vae_layers_per_block=draw(st.integers(1, 2)),
    )


def random_tensors(shapes, dtype, prefix=""):
    return {prefix + name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}


def write_source(folder, variant, dtype):
    a = transformer_rules.architecture_of(variant)
    table = transformer_rules.transformer_rules(a, learned_positions=variant.learned_positions)
    transformer = random_tensors(source_shapes(table), dtype, transformer_rules.PREFIX)
    vae_table = vae_rules.vae_rules(vae_rules.architecture_of(variant))
    vae = random_tensors(source_shapes(vae_table), dtype)
    (folder / "transformer" / "7").mkdir(parents=True)
    (folder / "vae").mkdir()
    (folder / "transformer" / "latest").write_text("7")
    torch.save({"module": transformer}, folder / "transformer/7/mp_rank_00_model_states.pt")
    torch.save({"state_dict": vae}, folder / "vae" / "3d-vae.pt")
    (folder / "model.yaml").write_text(yaml.safe_dump(model_yaml(variant)))
    return transformer, vae


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name])
        for name in theirs
    )


def loaded(path, outer):
    return torch.load(path, weights_only=True, mmap=True)[outer]


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("nano")])
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_round_trips_are_bit_exact(name, data, tmp_path_factory):
    variant = data.draw(tiny(VARIANTS[name]))
    root = tmp_path_factory.mktemp("round")
    transformer, vae = write_source(root / "sat", variant, data.draw(st.sampled_from(DTYPES)))
    plan = plan_conversion(root / "sat", ConversionOptions(variant=name))
    assert plan.detection.variant.name == name
    convert(plan, root / "folder")
    write_sat(plan_sat(root / "folder"), root / "again")
    assert equal(
        loaded(root / "again/transformer/1/mp_rank_00_model_states.pt", "module"), transformer
    )
    assert equal(loaded(root / "again/vae/3d-vae.pt", "state_dict"), vae)
    convert(plan_conversion(root / "again", ConversionOptions(variant=name)), root / "folder2")
    for part in ("transformer", "vae"):
        file = f"{part}/diffusion_pytorch_model.safetensors"
        assert equal(load_file(root / "folder2" / file), load_file(root / "folder" / file))
        config = f"{part}/config.json"
        assert (root / "folder2" / config).read_text() == (root / "folder" / config).read_text()
