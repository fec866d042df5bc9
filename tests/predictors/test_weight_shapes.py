"""The shapes we compute are those of the real models."""

import pytest
import torch

from predictors.weight_shapes import COMPONENTS, folder_shapes, variant_shapes
from tests.predictors.meta_models import meta_text_encoder, meta_transformer, meta_vae
from weights.errors import UserError
from weights.variants import VARIANTS


def shapes_of(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    # The same tensor as `shared.weight`; files have it once.
    state.pop("encoder.embed_tokens.weight", None)
    return state


@pytest.mark.parametrize("name", VARIANTS)
def test_every_tensor_of_a_variant_is_the_real_models(name):
    variant = VARIANTS[name]
    shapes = variant_shapes(variant)
    assert shapes["transformer"] == shapes_of(meta_transformer(variant))
    assert shapes["text_encoder"] == shapes_of(meta_text_encoder(variant))
    assert shapes["vae"] == shapes_of(meta_vae(variant))


def test_a_folders_shapes_come_from_its_headers(tiny_folder):
    found, expected = folder_shapes(tiny_folder), variant_shapes(VARIANTS["nano"])
    assert tuple(found) == COMPONENTS
    assert found["transformer"] == expected["transformer"]
    assert found["vae"] == expected["vae"]
    assert "shared.weight" in found["text_encoder"]


def test_an_embedding_under_two_names_counts_once(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "text_encoder").mkdir()
    names = ("shared.weight", "encoder.embed_tokens.weight")
    tensors = {name: torch.zeros(4, 2) for name in names}
    save_file(tensors, tmp_path / "text_encoder" / "model.safetensors")
    assert folder_shapes(tmp_path)["text_encoder"] == {"shared.weight": (4, 2)}


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(UserError, match=r"model\.safetensors is not a whole"):
        folder_shapes(tmp_path)
