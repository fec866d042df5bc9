import pytest
import yaml

from conversion.sat_config import read_sat_config
from weights.errors import UserError


def test_golden_yaml_is_read(golden):
    config = read_sat_config(golden / "2b" / "model.yaml")
    assert (config.num_layers, config.hidden_size, config.in_channels) == (2, 128, 16)
    assert (config.sample_frames, config.sample_height, config.sample_width) == (9, 8, 12)
    assert (config.text_tokens, config.text_encoder) == (10, "t5-v1_1-xxl")
    assert (config.vae_scaling_factor, config.snr_shift_scale) == (1.15258426, 3.0)
    assert (config.rotary, config.learned_positions, config.spatial_interpolation) == (
        False,
        False,
        1.875,
    )


def test_what_a_yaml_leaves_out_has_sats_defaults(golden):
    config = read_sat_config(golden / "1.5_5b" / "model.yaml")
    assert config.snr_shift_scale == 1.0
    assert config.spatial_interpolation == 1.0
    assert config.rotary
    assert config.temporal_patches


def test_learned_positions_are_seen(golden):
    assert read_sat_config(golden / "5b_i2v" / "model.yaml").learned_positions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just words", "is not a mapping"),
        ("a: [", "cannot be read as yaml"),
        ("args: {}", "no section 'model'"),
        ("model: {network_config: {}}", r"no section 'model\.network_config\.params'"),
        ("\x00", "cannot be read as yaml"),
    ],
)
def test_another_file_is_refused(text, message, tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_sat_config(path)


def test_a_number_that_is_none_is_refused(golden, tmp_path):
    path = tmp_path / "model.yaml"
    text = (golden / "2b" / "model.yaml").read_text()
    path.write_text(text.replace("num_layers: 2", "num_layers: two"))
    with pytest.raises(UserError, match=r"'two' at model\.network_config\.params\.num_layers"):
        read_sat_config(path)


def test_a_missing_yaml_is_named(tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        read_sat_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "odd", [[], "t5", {"params": []}, {"params": {"emb_models": ["t5", {"params": 5}]}}]
)
def test_an_odd_text_encoder_is_none(golden, tmp_path, odd):
    path = tmp_path / "model.yaml"
    document = yaml.safe_load((golden / "2b" / "model.yaml").read_text())
    document["model"]["conditioner_config"] = odd
    path.write_text(yaml.safe_dump(document))
    assert read_sat_config(path).text_encoder is None
