"""Transformers of the released variants at golden size, and the golden inputs to them."""

from dataclasses import replace

import diffusers
import torch
from safetensors.torch import load_file

from tests.training.finetuning.tiny_variants import GOLDEN, VARIANT_OF_GOLDEN
from training.finetuning.lora import adapter_state
from weights.variants import VARIANTS, Variant


def tiny_variant(golden: str) -> Variant:
    """The variant's row with the numbers of its golden data."""
    config = diffusers.CogVideoXTransformer3DModel.load_config(_config(golden))
    return replace(
        VARIANTS[VARIANT_OF_GOLDEN[golden]],
        num_layers=config["num_layers"],
        num_heads=config["num_attention_heads"],
        time_embed_dim=config["time_embed_dim"],
        text_embed_dim=config["text_embed_dim"],
        ofs_embed_dim=config["ofs_embed_dim"],
    )


def new_transformer(golden: str, dtype=torch.float32):
    """A transformer with random weights, always the same."""
    config = diffusers.CogVideoXTransformer3DModel.load_config(_config(golden))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = diffusers.CogVideoXTransformer3DModel.from_config(config)
    return model.to(dtype)


def _config(golden: str):
    return GOLDEN / golden / "diffusers_config.json"


def forward(model, golden: str) -> torch.Tensor:
    """The prediction for the golden inputs, in the model's dtype and with gradients."""
    case = load_file(GOLDEN / golden / "io.safetensors")
    tensors = {n.removeprefix("case0."): t for n, t in case.items() if n.startswith("case0.")}
    x = tensors["x"]
    if "image_latents" in tensors:
        x = torch.cat([x, tensors["image_latents"]], dim=2)
    more = {}
    if "rope_cos" in tensors:
        more["image_rotary_emb"] = (tensors["rope_cos"], tensors["rope_sin"])
    if "ofs" in tensors:
        more["ofs"] = tensors["ofs"].to(model.dtype)
    context = tensors["context"].to(model.dtype)
    return model(x.to(model.dtype), context, tensors["timesteps"], **more).sample


def output(model, golden: str) -> torch.Tensor:
    with torch.no_grad():
        return forward(model, golden)


def lora_of(model) -> dict[str, torch.Tensor]:
    """The state of a transformer's LoRA as it is saved."""
    return adapter_state(dict(model.named_parameters()))


def train_at_random(parameters, seed: int = 1) -> None:
    """Give a LoRA's matrices values that change the output a lot."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
