import json

import pytest
import torch
from safetensors import safe_open

from conversion.convert_lora import convert_lora, plan_lora
from conversion.plan import ConversionOptions, plan_conversion
from conversion.tensor_source import LoraFactors, MergedLora
from weights.errors import UserError

LORA_2B_FILE = "sat/transformer/1/mp_rank_00_model_states.pt"


@pytest.fixture
def lora_file(golden, tmp_path):
    """A copy of the golden 2b LoRA checkpoint whose tensors went through a change."""

    def changed(change):
        module = torch.load(golden / "lora_2b" / LORA_2B_FILE, weights_only=True)["module"]
        change(module)
        torch.save({"module": module}, tmp_path / "lora.pt")
        return tmp_path / "lora.pt"

    return changed


def planned(golden, source=None, **options):
    config = golden / "lora_2b" / "model.yaml"
    return plan_lora(source or golden / "lora_2b" / "sat", config=config, **options)


def test_metadata_hold_rank_alpha_and_base(golden, tmp_path):
    convert_lora(planned(golden, alpha=2), tmp_path / "lora.safetensors")
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        metadata = file.metadata()
        keys = list(file.keys())
    adapter = json.loads(metadata["lora_adapter_metadata"])
    assert (adapter["transformer.r"], adapter["transformer.lora_alpha"]) == (4, 2)
    assert metadata["variant"] == "cogvideox-2b"
    assert len(keys) == 2 * 4 * 2
    assert all(key.startswith("transformer.transformer_blocks.") for key in keys)


def test_a_run_and_a_bare_file_are_sources_as_well(golden):
    run = golden / "lora_2b" / "sat" / "transformer"
    assert planned(golden, run).lora.rank == 4
    assert planned(golden, golden / "lora_2b" / LORA_2B_FILE).lora.rank == 4


def test_missing_layers_are_named(golden, lora_file):
    def without_layer_1(module):
        for name in [n for n in module if "layers.1." in n and ".matrix_" in n]:
            del module[name]

    with pytest.raises(
        UserError, match=r"missing: transformer\.layers\.1\.attention\.query_key_value\.matrix_A\.0"
    ):
        planned(golden, lora_file(without_layer_1))


def test_a_merge_of_a_partial_lora_is_refused(golden, golden_vae, lora_file):
    def without_dense(module):
        for name in [n for n in module if "layers.0.attention.dense.matrix_" in n]:
            del module[name]

    options = ConversionOptions(
        config=golden / "lora_2b" / "model.yaml", vae=golden_vae, lora="merge"
    )
    with pytest.raises(UserError, match="missing: transformer"):
        plan_conversion(lora_file(without_dense), options)


def test_ranks_that_differ_are_refused(golden, lora_file):
    def widen(module):
        name = next(n for n in module if ".matrix_A." in n)
        module[name] = torch.zeros(8, 128)

    with pytest.raises(UserError, match="ranks 4, 8"):
        planned(golden, lora_file(widen))


def test_a_lora_elsewhere_is_refused(golden, lora_file):
    def add(module):
        prefix = "model.diffusion_model.transformer.layers.0.mlp.dense_h_to_4h"
        module[f"{prefix}.matrix_A.0"] = torch.zeros(4, 128)

    with pytest.raises(UserError, match=r"unknown: transformer\.layers\.0\.mlp"):
        planned(golden, lora_file(add))


def test_a_checkpoint_without_lora_is_refused(golden):
    with pytest.raises(UserError, match="carries no LoRA"):
        plan_lora(golden / "2b" / "sat", config=golden / "2b" / "model.yaml")


@pytest.mark.parametrize("alpha", [0, -1])
def test_alpha_is_positive(alpha, golden):
    with pytest.raises(UserError, match="--alpha"):
        planned(golden, alpha=alpha)


def test_a_merge_adds_the_pairs_of_each_chunk_and_leaves_the_file_alone():
    base = torch.arange(24.0).reshape(6, 4)
    kept = base.clone()
    pairs = tuple((torch.randn(2, 4), torch.randn(3, 2)) for _ in range(2))
    merged = MergedLora({"w": base}, {"w": LoraFactors(pairs)}, scale=0.5)
    expected = base + 0.5 * torch.cat([b @ a for a, b in pairs])
    for start in range(6):
        for stop in range(start + 1, 7):
            rows = merged.rows("w", start, stop)
            torch.testing.assert_close(rows, expected[start:stop])
    assert torch.equal(base, kept)


def test_other_weights_pass_a_merge_untouched():
    base = torch.randn(3, 2)
    assert MergedLora({"w": base}, {}, 1.0).rows("w", 0, 3).data_ptr() == base.data_ptr()
