import pytest

from conversion.sat_layout import locate
from weights.errors import UserError


@pytest.fixture
def sat(tmp_path):
    (tmp_path / "transformer" / "1000").mkdir(parents=True)
    (tmp_path / "transformer" / "1000" / "mp_rank_00_model_states.pt").touch()
    (tmp_path / "transformer" / "latest").write_text("1000\n")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "3d-vae.pt").touch()
    return tmp_path


def test_latest_names_the_step(sat):
    layout = locate(sat)
    assert layout.transformer == sat / "transformer" / "1000" / "mp_rank_00_model_states.pt"
    assert layout.vae == sat / "vae" / "3d-vae.pt"
    assert layout.config is None


def test_the_folder_of_an_i2v_transformer_is_found(sat):
    (sat / "transformer").rename(sat / "transformer_i2v")
    assert locate(sat).transformer is not None


def test_a_training_run_is_a_transformer_folder_itself(sat):
    assert locate(sat / "transformer").transformer is not None


def test_a_file_is_taken_as_it_is(sat):
    path = sat / "vae" / "3d-vae.pt"
    assert locate(path).transformer == path


@pytest.mark.parametrize("step", ["", "..", "../../etc", "a/b", "2000"])
def test_a_latest_that_leads_nowhere_is_refused(step, sat):
    (sat / "transformer" / "latest").write_text(step)
    with pytest.raises(UserError, match="names the step"):
        locate(sat)


def test_a_missing_latest_is_explained(sat):
    (sat / "transformer" / "latest").unlink()
    with pytest.raises(UserError, match="echo 1 >"):
        locate(sat)


def test_model_parallel_ranks_are_refused(sat):
    (sat / "transformer" / "1000" / "mp_rank_01_model_states.pt").touch()
    with pytest.raises(UserError, match="model-parallel"):
        locate(sat)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="nothing at"):
        locate(tmp_path / "absent")


def test_a_diffusers_folder_is_called_one(sat):
    (sat / "model_index.json").touch()
    with pytest.raises(UserError, match="is a diffusers folder"):
        locate(sat)
