"""SAT's two files for a sampling, with the keys that those of its `sat/configs/` have."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from weights.variants import TEMPORAL_COMPRESSION, Variant

_SGM = "sgm.modules.diffusionmodules"
_MODEL = """
model:
  disable_first_stage_autocast: true
  log_keys: [txt]
  denoiser_config:
    target: sgm.modules.diffusionmodules.denoiser.DiscreteDenoiser
    params:
      num_idx: 1000
      quantize_c_noise: False
      weighting_config:
        target: sgm.modules.diffusionmodules.denoiser_weighting.EpsWeighting
      scaling_config:
        target: sgm.modules.diffusionmodules.denoiser_scaling.VideoScaling
  network_config:
    target: dit_video_concat.DiffusionTransformer
    params:
      elementwise_affine: True
      time_compressed_rate: 4
      out_channels: 16
      adm_in_channels: 256
      transformer_args:
        checkpoint_activations: True
        vocab_size: 1
        max_sequence_length: 64
        layernorm_order: pre
        skip_init: false
        model_parallel_size: 1
        is_decoder: false
      modules:
        adaln_layer_config: {target: dit_video_concat.AdaLNMixin, params: {qk_ln: True}}
        final_layer_config: {target: dit_video_concat.FinalLayerMixin}
  conditioner_config:
    target: sgm.modules.GeneralConditioner
    params:
      emb_models:
        - is_trainable: false
          input_key: txt
          ucg_rate: 0.1
          target: sgm.modules.encoders.modules.FrozenT5Embedder
          params: {model_dir: "t5-v1_1-xxl"}
  first_stage_config:
    target: vae_modules.autoencoder.VideoAutoencoderInferenceWrapper
    params:
      cp_size: 1
      ckpt_path: "CogVideoX-sat/vae/3d-vae.pt"
      ignore_keys: ['loss']
      loss_config: {target: torch.nn.Identity}
      regularizer_config: {target: vae_modules.regularizers.DiagonalGaussianRegularizer}
      encoder_config:
        target: vae_modules.cp_enc_dec.ContextParallelEncoder3D
        params: {double_z: true, z_channels: 16, ch: 128, ch_mult: [1, 2, 2, 4], num_res_blocks: 3}
      decoder_config:
        target: vae_modules.cp_enc_dec.ContextParallelDecoder3D
        params: {double_z: true, z_channels: 16, ch: 128, ch_mult: [1, 2, 2, 4], num_res_blocks: 3}
  loss_fn_config:
    target: sgm.modules.diffusionmodules.loss.VideoDiffusionLoss
    params: {offset_noise_level: 0}
  sampler_config:
    target: sgm.modules.diffusionmodules.sampling.VPSDEDPMPP2MSampler
    params:
      num_steps: 50
      verbose: True
      guider_config:
        target: sgm.modules.diffusionmodules.guiders.DynamicCFG
        params: {scale: 6, exp: 5, num_steps: 50}
"""
_INFERENCE = """
args:
  image2video: False
  latent_channels: 16
  mode: inference
  load: "CogVideoX-sat/transformer"
  batch_size: 1
  input_type: txt
  input_file: configs/test.txt
  sampling_image_size: [480, 720]
  sampling_num_frames: 13
  sampling_fps: 8
  bf16: True
  output_dir: outputs/
  force_inference: True
"""
GUIDER = "model.sampler_config.params.guider_config"


def model_document(variant: Variant) -> dict[str, Any]:
    """`model.yaml` of a variant."""
    document: dict[str, Any] = yaml.safe_load(_MODEL)
    model, network = document["model"], document["model"]["network_config"]["params"]
    model["scale_factor"] = variant.vae_scaling_factor
    schedule: dict[str, Any] = {"target": f"{_SGM}.discretizer.ZeroSNRDDPMDiscretization"}
    if variant.patch_size_t is None:
        schedule["params"] = {"shift_scale": variant.snr_shift_scale}
    for part in ("denoiser_config", "sampler_config"):
        model[part]["params"]["discretization_config"] = deepcopy(schedule)
    network |= {
        "time_embed_dim": variant.time_embed_dim,
        "num_frames": variant.sample_frames,
        "latent_width": variant.sample_width,
        "latent_height": variant.sample_height,
        "num_layers": variant.num_layers,
        "patch_size": [2, 2, 2] if variant.patch_size_t else 2,
        "in_channels": variant.in_channels,
        "hidden_size": variant.hidden_size,
        "num_attention_heads": variant.num_heads,
    }
    if variant.ofs_embed_dim:
        network["ofs_embed_dim"] = variant.ofs_embed_dim
    if variant.task == "i2v":
        model |= {"latent_input": False, "noised_image_input": True, "noised_image_dropout": 0.05}
    kind = "Rotary3D" if variant.rotary else "Basic3D"
    params = {"text_length": variant.text_tokens}
    params |= {"hidden_size_head": 64} if variant.rotary else {"height_interpolation": 1.875}
    params |= {"learnable_pos_embed": True} if variant.learned_positions else {}
    network["modules"] |= {
        "pos_embed_config": {
            "target": f"dit_video_concat.{kind}PositionEmbeddingMixin",
            "params": params,
        },
        "patch_embed_config": {
            "target": "dit_video_concat.ImagePatchEmbeddingMixin",
            "params": {"text_hidden_size": variant.text_embed_dim},
        },
    }
    (embedder,) = model["conditioner_config"]["params"]["emb_models"]
    embedder["params"]["max_length"] = variant.text_tokens
    return document


def inference_document(variant: Variant) -> dict[str, Any]:
    """`inference.yaml` for a variant."""
    document: dict[str, Any] = yaml.safe_load(_INFERENCE)
    latents = (variant.default_frames - 1) // TEMPORAL_COMPRESSION + 1
    document["args"] |= {
        "image2video": variant.task == "i2v",
        "sampling_image_size": [variant.height, variant.width],
        "sampling_num_frames": latents + (latents % 2 if variant.patch_size_t else 0),
        "sampling_fps": variant.fps,
    }
    return document


def changed(document: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`document` with other values at dotted keys; None takes a key out."""
    for name, value in values.items():
        *place, last = name.split(".")
        section = document
        for part in place:
            section = section.setdefault(part, {})
        if value is None:
            del section[last]
        else:
            section[last] = value
    return document


def write_yaml(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path
