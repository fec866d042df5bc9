from dataclasses import replace

import pytest

from conversion.detection import detect
from conversion.rules import source_shapes
from conversion.sat_config import read_sat_config
from conversion.transformer_rules import (
    architecture_of,
    read_architecture,
    transformer_rules,
)
from weights.errors import UserError
from weights.variants import VARIANTS


def architecture_in_a_file(variant):
    table = transformer_rules(architecture_of(variant), learned_positions=variant.learned_positions)
    return read_architecture(source_shapes(table))


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda v: v.name)
def test_every_variant_is_told_by_its_shapes_alone(variant):
    found = detect(architecture_in_a_file(variant), None)
    assert found.variant == variant
    assert found.exact


def test_other_sizes_without_yaml_are_refused_where_shapes_do_not_tell():
    a = replace(architecture_of(VARIANTS["cogvideox-2b"]), num_layers=7)
    with pytest.raises(UserError, match="--config"):
        detect(a, None)


@pytest.mark.parametrize("name", ["cogvideox-5b-i2v", "cogvideox1.5-5b", "cogvideox1.5-5b-i2v"])
def test_other_sizes_without_yaml_pass_where_shapes_tell(name):
    a = replace(architecture_in_a_file(VARIANTS[name]), num_layers=7)
    found = detect(a, None)
    assert (found.variant.name, found.variant.num_layers, found.exact) == (name, 7, False)


def test_a_yaml_of_another_model_is_refused(golden):
    config = read_sat_config(golden / "2b" / "model.yaml")
    with pytest.raises(UserError, match="says num_layers = 2, the checkpoint has 30"):
        detect(architecture_of(VARIANTS["cogvideox-2b"]), config)


def test_a_position_table_of_another_length_is_refused():
    a = replace(architecture_in_a_file(VARIANTS["cogvideox-5b-i2v"]), position_rows=100)
    with pytest.raises(UserError, match="100 rows"):
        detect(a, None)


def test_unknown_channels_are_refused():
    a = replace(architecture_of(VARIANTS["cogvideox-5b"]), in_channels=48, rotary_tables=True)
    with pytest.raises(UserError, match="48 latent channels"):
        detect(a, None)
