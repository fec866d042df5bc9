"""SAT's layout of a LoRA is what SAT itself saves, and our own conversion reads it back."""

import json

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from conversion.convert import convert
from conversion.convert_lora import convert_lora, plan_lora
from conversion.plan import ConversionOptions, plan_conversion
from predictors.lora.adapters import Adapters
from tests.training.finetuning.golden_inputs import lora_of, output, tiny_variant, train_at_random
from tests.training.finetuning.tiny_variants import GOLDEN, VARIANT_OF_GOLDEN
from training.finetuning.lora import BLOCK_MODULES, add_lora
from training.finetuning.sat_lora import check_sat_targets, save_sat_lora
from training.finetuning.settings import SAT_TARGETS
from weights.errors import OperationError, UserError

pytestmark = pytest.mark.usefixtures("one_thread")

PREFIX = "model.diffusion_model."
# Computed by SAT, and so not written again; golden/lora_2b has it.
COMPUTED = f"{PREFIX}mixins.pos_embed.pos_embedding"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A weights folder for golden data, converted when it is first asked for."""
    folders = {}

    def get(golden):
        if golden not in folders:
            folders[golden] = tmp_path_factory.mktemp("bases") / golden
            options = ConversionOptions(
                config=GOLDEN / golden / "model.yaml",
                vae=GOLDEN / "vae" / "sat" / "vae" / "3d-vae.pt",
                lora="leave out" if golden.startswith("lora") else "refuse",
            )
            convert(plan_conversion(GOLDEN / golden / "sat", options), folders[golden])
        return folders[golden]

    return get


def transformer(base):
    from diffusers import CogVideoXTransformer3DModel

    return CogVideoXTransformer3DModel.from_pretrained(base / "transformer")


def trained(base, *, alpha=1.0, targets=SAT_TARGETS, rank=4):
    model = transformer(base)
    train_at_random(add_lora(model, rank=rank, alpha=alpha, targets=targets, seed=0))
    return model


def saved_module(folder, step):
    path = folder / str(step) / "mp_rank_00_model_states.pt"
    outer = torch.load(path, weights_only=True)
    assert list(outer) == ["module"]
    return outer["module"]


def converted_back(folder, path):
    convert_lora(plan_lora(folder), path)
    return load_file(path)


def test_it_is_what_sat_saved_of_the_same_lora(bases, tmp_path):
    """Golden data of the original: converted to diffusers and written back, it is the same."""
    source = GOLDEN / "lora_2b"
    golden = torch.load(source / "sat/transformer/1/mp_rank_00_model_states.pt", weights_only=True)[
        "module"
    ]
    path = tmp_path / "lora.safetensors"
    convert_lora(plan_lora(source / "sat", config=source / "model.yaml"), path)
    state = {name.removeprefix("transformer."): t for name, t in load_file(path).items()}
    save_sat_lora(state, tmp_path / "sat", base=bases("lora_2b"), alpha=1.0, step=1)
    ours = saved_module(tmp_path / "sat", 1)
    assert ours.keys() == {name for name in golden if name.startswith(PREFIX)} - {COMPUTED}
    assert all(torch.equal(ours[name], golden[name]) for name in ours)


def test_a_lora_of_the_original_computes_here_what_it_computed_there(bases, tmp_path):
    """Our training's forward pass against SAT's, with the golden README's limit."""
    source = GOLDEN / "lora_2b"
    path = tmp_path / "lora.safetensors"
    convert_lora(plan_lora(source / "sat", config=source / "model.yaml"), path)
    model = transformer(bases("lora_2b"))
    add_lora(model, rank=4, alpha=1.0, targets=SAT_TARGETS, seed=0)
    expected = load_file(source / "io.safetensors")
    torch.testing.assert_close(
        output(model, "lora_2b"), expected["case0.out_without_lora"], atol=1e-4, rtol=0
    )
    state = lora_of(model)
    for name, tensor in load_file(path).items():
        state[name.removeprefix("transformer.")].copy_(tensor)
    torch.testing.assert_close(output(model, "lora_2b"), expected["case0.out"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("golden", VARIANT_OF_GOLDEN)
def test_our_conversion_reads_it_back_bit_for_bit(golden, bases, tmp_path):
    model = trained(bases(golden), rank=3)
    state = lora_of(model)
    save_sat_lora(state, tmp_path / "sat", base=bases(golden), alpha=1.0, step=40)
    back = converted_back(tmp_path / "sat", tmp_path / "lora.safetensors")
    assert back.keys() == {f"transformer.{name}" for name in state}
    assert all(torch.equal(back[f"transformer.{name}"], state[name]) for name in state)
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["variant"] == VARIANT_OF_GOLDEN[golden]
    assert json.loads(metadata["lora_adapter_metadata"])["transformer.r"] == 3


def test_any_alpha_becomes_sats_own(bases, tmp_path):
    """The effect is that of the training where a reader takes alpha for 1, as SAT does."""
    base = bases("5b")
    model = trained(base, alpha=2.7)
    state = lora_of(model)
    save_sat_lora(state, tmp_path / "sat", base=base, alpha=2.7, step=1)
    back = converted_back(tmp_path / "sat", tmp_path / "lora.safetensors")
    for name, tensor in state.items():
        factor = 2.7 if ".lora_B." in name else 1
        assert torch.equal(back[f"transformer.{name}"], tensor * factor)
    plain = transformer(base)
    with Adapters(plain, tiny_variant("5b")).applied(tmp_path / "lora.safetensors", 1.0):
        torch.testing.assert_close(output(plain, "5b"), output(model, "5b"), atol=2e-5, rtol=1e-5)


def test_the_base_in_it_is_whole_and_unchanged(bases, tmp_path):
    """What `convert --without-lora` makes of it is the base, and --merge is the LoRA's effect."""
    base = bases("1.5_5b")
    model = trained(base)
    save_sat_lora(lora_of(model), tmp_path / "sat", base=base, alpha=1.0, step=1)
    vae = GOLDEN / "vae" / "sat" / "vae" / "3d-vae.pt"
    for lora in ("leave out", "merge"):
        options = ConversionOptions(vae=vae, lora=lora)
        convert(plan_conversion(tmp_path / "sat", options), tmp_path / lora)
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "leave out" / weights).read_bytes() == (base / weights).read_bytes()
    torch.testing.assert_close(
        output(transformer(tmp_path / "merge"), "1.5_5b"),
        output(model, "1.5_5b"),
        atol=2e-5,
        rtol=1e-5,
    )


def test_sat_finds_the_step_and_the_rank(bases, tmp_path):
    base = bases("2b")
    save_sat_lora(lora_of(trained(base)), tmp_path / "sat", base=base, alpha=1.0, step=120)
    assert (tmp_path / "sat" / "latest").read_text() == "120"
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == {
        "sat/latest",
        "sat/model.yaml",
        "sat/120/mp_rank_00_model_states.pt",
    }
    ours = yaml.safe_load((tmp_path / "sat" / "model.yaml").read_text())
    theirs = yaml.safe_load((GOLDEN / "lora_2b" / "model.yaml").read_text())
    modules = [
        document["model"]["network_config"]["params"]["modules"]["lora_config"]
        for document in (ours, theirs)
    ]
    assert modules[0] == modules[1]


@pytest.mark.parametrize("targets", [BLOCK_MODULES, ("to_q", "to_k"), ("ff.net.2",)])
def test_other_targets_than_sats_are_refused_before_anything_is_written(targets, bases, tmp_path):
    with pytest.raises(UserError, match="SAT's LoRA changes to_k, to_out"):
        check_sat_targets(targets)
    base = bases("2b")
    state = lora_of(trained(base, targets=targets))
    with pytest.raises(UserError, match=r"missing|unknown"):
        save_sat_lora(state, tmp_path / "sat", base=base, alpha=1.0, step=1)
    assert list(tmp_path.iterdir()) == []


def test_sats_own_targets_are_taken_in_any_order_and_by_full_names():
    check_sat_targets(SAT_TARGETS[::-1])
    check_sat_targets([f"attn1.{target}" for target in SAT_TARGETS])


def test_a_lora_for_another_model_is_refused(bases, tmp_path):
    state = lora_of(trained(bases("2b")))
    state["transformer_blocks.2.attn1.to_q.lora_A.weight"] = torch.zeros(4, 128)
    with pytest.raises(UserError, match=r"unknown: transformer_blocks\.2"):
        save_sat_lora(state, tmp_path / "sat", base=bases("2b"), alpha=1.0, step=1)


def test_a_taken_folder_is_left_alone(bases, tmp_path):
    (tmp_path / "mine").write_text("x")
    state = lora_of(trained(bases("2b")))
    with pytest.raises(UserError, match="is there already"):
        save_sat_lora(state, tmp_path, base=bases("2b"), alpha=1.0, step=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_full_disk_is_told_before_anything_is_written(bases, tmp_path, monkeypatch):
    import shutil

    state = lora_of(trained(bases("2b")))
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(OperationError, match=r"1\.0 MB free\. [0-9.]+ MB are needed"):
        save_sat_lora(state, tmp_path / "sat", base=bases("2b"), alpha=1.0, step=1)
    assert list(tmp_path.iterdir()) == []
