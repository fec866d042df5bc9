"""Keys of SAT's files that have no part in sampling here, and what there is instead."""

from conversion.sat_unmapped import Reasons

_UNKNOWN = "SAT's files have no key like this that is known here; it has no effect."
_TRAINING = "This is of trainings."
_LAUNCH = "--ray, --parallel and `torchrun -m sampling` say which GPUs work."
_UNUSED = "SAT's sample_video.py does not use it, either."
_TENSORS = "The checkpoint's tensors say this."
_WEIGHTS = "The weights say this."
_VIDEOS = "Videos are made, not latents."

_BY_BEGINNING: dict[str, str] = {
    "args.batch_size": "SAT makes as many clips of each prompt. Here a line makes one: write it as "
    "often. (--batch is how many are sampled at once.)",
    "args.force_inference": "The checkpoint is whole, or it is refused.",
    "args.force_pretrain": "The checkpoint is whole, or it is refused.",
    "args.input_file": "It is read with `input_type: txt` only, as in SAT.",
    "args.model_parallel_size": _LAUNCH,
    "args.device": _LAUNCH,
    "args.local_rank": _LAUNCH,
    "args.distributed_backend": _LAUNCH,
    "args.only_save_latents": _VIDEOS,
    "args.only_log_video_latents": _VIDEOS,
    "args.sampling_image_size": "The image says which of the legal sizes it is, as in SAT; --width "
    "and --height choose another.",
    "args.input_dir": _UNUSED,
    "args.final_size": _UNUSED,
    "args.sdedit": _UNUSED,
    "args.grid_num_rows": _UNUSED,
    "args.lcm_steps": _UNUSED,
    "args.log_image": _TRAINING,
    "args.debug": _UNUSED,
    "data": _TRAINING,
    "deepspeed": _TRAINING,
    "model": _WEIGHTS,
    "model.log_keys": _TRAINING,
    "model.loss_fn_config": _TRAINING,
    "model.not_trainable_prefixes": _TRAINING,
    "model.latent_input": _TRAINING,
    "model.noised_image_input": _TRAINING,
    "model.noised_image_all_concat": _TRAINING,
    "model.noised_image_dropout": _TRAINING,
    "model.augmentation_dropout": _TRAINING,
    "model.disable_first_stage_autocast": "The VAE computes in the dtype of the weights.",
    "model.compile_model": "COGVIDEOX_COMPILE=1 compiles the transformer.",
    "model.denoiser_config": _WEIGHTS,
    "model.denoiser_config.params.weighting_config": _TRAINING,
    "model.network_config": _TENSORS,
    "model.network_config.params.transformer_args": _TENSORS,
    "model.network_config.params.modules.lora_config": "The checkpoint's LoRA says this.",
    "model.conditioner_config": "The T5 says this; captions are dropped in trainings only.",
    "model.first_stage_config": "The VAE's tensors say this.",
    "model.first_stage_config.params.cp_size": _LAUNCH,
    "model.sampler_config": "It does not change the video.",
    "model.sampler_config.params.guider_config": "It does not change the video.",
}

REASONS = Reasons(_BY_BEGINNING, _UNKNOWN)
