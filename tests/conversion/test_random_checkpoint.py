import pytest
import torch

from conversion.detection import detect
from conversion.plan import plan_conversion
from conversion.sat_config import read_sat_config
from conversion.transformer_rules import (
    architecture_of,
    read_architecture,
    transformer_rules,
)
from tests.conversion.random_checkpoint import write_random_checkpoint
from weights.errors import UserError
from weights.variants import VARIANTS


def files(folder):
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def test_the_layout_is_sats(nano_sat):
    assert set(files(nano_sat)) == {
        "transformer/latest",
        "transformer/1/mp_rank_00_model_states.pt",
        "vae/3d-vae.pt",
        "model.yaml",
        "t5-v1_1-xxl/config.json",
        "t5-v1_1-xxl/model.safetensors",
        "t5-v1_1-xxl/spiece.model",
    }


def test_a_seed_fixes_every_byte(nano_sat, tmp_path):
    torch.manual_seed(1234)
    state = torch.get_rng_state()
    write_random_checkpoint(VARIANTS["nano"], tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)
    ours, theirs = files(tmp_path / "again"), files(nano_sat)
    assert all(ours[name].read_bytes() == theirs[name].read_bytes() for name in theirs)
    write_random_checkpoint(VARIANTS["nano"], tmp_path / "other", seed=1)
    other = files(tmp_path / "other")
    assert other["vae/3d-vae.pt"].read_bytes() != theirs["vae/3d-vae.pt"].read_bytes()


@pytest.mark.parametrize("name", ["nano", "nano-i2v"])
def test_the_yaml_says_what_the_table_says(name, tmp_path):
    write_random_checkpoint(VARIANTS[name], tmp_path / "sat")
    plan = plan_conversion(tmp_path / "sat")
    assert plan.detection.variant == VARIANTS[name]
    assert plan.detection.exact
    assert plan.notes == ()


def test_a_yaml_for_each_family_is_understood(tmp_path):
    """The yaml writer and reader agree for every variant, without writing weights."""
    import yaml

    from conversion.rules import source_shapes
    from conversion.sat_writer import model_yaml

    for variant in VARIANTS.values():
        path = tmp_path / f"{variant.name}.yaml"
        path.write_text(yaml.safe_dump(model_yaml(variant)))
        table = transformer_rules(
            architecture_of(variant), learned_positions=variant.learned_positions
        )
        found = detect(read_architecture(source_shapes(table)), read_sat_config(path))
        assert found.variant == variant


def test_a_taken_destination_is_refused(nano_sat):
    with pytest.raises(UserError, match="is there already"):
        write_random_checkpoint(VARIANTS["nano"], nano_sat)
