"""Keys of a SAT training that have no counterpart here, and what to do instead."""

from conversion.sat_unmapped import Reasons

_UNKNOWN = "SAT's fine-tuning files have no key like this that is known here; it has no effect."
_OVERRULED = "The part for DeepSpeed says this, too; as in SAT, that counts."
_LAUNCH = "`accelerate launch` spreads a training over GPUs: copies for a LoRA, FSDP with --full."
_VALIDATION = "Validation makes clips of prompts here: see --validate-every, --validation-prompt."
_BASE = "The weights folder given as --base says what the model is."
_CACHE = "Clips are read once, encoded and kept in a cache."
_SCALER = "torch's GradScaler scales the loss in fp16, with its own numbers."
_SEEDED = "A training goes on exactly where it was interrupted, with the same random numbers."
_TELLS = "How often to tell is no setting: every step has its line in the log."

_BY_BEGINNING: dict[str, str] = {
    "args.model_parallel_size": _LAUNCH,
    "args.experiment_name": "A training goes by its folder, OUT.",
    "args.mode": "A new training begins with the base's weights. SAT's finetune holds the first "
    "100 steps at 5 % of the learning rate: --warmup-steps begins gently, too.",
    "args.load": "Give the weights as --base; `cogvideox convert` makes a folder of SAT's.",
    "args.force_train": "The base is whole, or it is refused.",
    "args.no_load_rng": _SEEDED,
    "args.no_save_rng": _SEEDED,
    "args.resume_dataloader": _SEEDED,
    "args.epochs": "The length is --steps: clips × epochs / (batch × accumulate × GPUs).",
    "args.eval_iters": _VALIDATION,
    "args.eval_batch_size": _VALIDATION,
    "args.strict_eval": _VALIDATION,
    "args.valid_data": _VALIDATION,
    "args.only_log_video_latents": _VALIDATION,
    "args.save": "Give the folder as OUT.",
    "args.save_args": "The settings are kept with the result.",
    "args.log_interval": _TELLS,
    "args.summary_dir": "The logs are in OUT.",
    "args.split": "All clips of DATA are trained on.",
    "args.train_data": "One DATA is trained on: put the clips into one folder and give it.",
    "args.train_data_weights": "Every clip comes equally often.",
    "args.num_workers": _CACHE,
    "args.block_size": _CACHE,
    "args.iterable_dataset": _CACHE,
    "args.checkpoint_num_layers": "--checkpointing keeps what comes into each block.",
    "args.exit_interval": "Ctrl-C saves, and the same command goes on.",
    "args.lr_decay_style": "SAT has no exponential decay yet and keeps the rate: so it is here.",
    "args.lr_decay_ratio": "It is the floor of the cosine, which this file does not ask for.",
    "args.lr_decay_iters": "The schedule that this file asks for ends with the training.",
    "args.bf16": _OVERRULED,
    "args.fp16": _OVERRULED,
    "args.zero_stage": _LAUNCH,
    "args.device": _LAUNCH,
    "args.distributed_backend": _LAUNCH,
    "args.local_rank": _LAUNCH,
    "data.target": "DATA in another layout: see `cogvideox train --check`.",
    "data.params.skip_frms_num": "Clips begin with their first frame: cut off what should not be "
    "seen.",
    "deepspeed": "This belongs to DeepSpeed, which is not used; accelerate and PyTorch are.",
    "deepspeed.zero_optimization": _LAUNCH,
    "deepspeed.zero_allow_untested_optimizer": _LAUNCH,
    "deepspeed.train_batch_size": "It follows: --batch × --accumulate × GPUs.",
    "deepspeed.steps_per_print": _TELLS,
    "deepspeed.wall_clock_breakdown": _TELLS,
    "deepspeed.fp16": _SCALER,
    "deepspeed.loss_scale": _SCALER,
    "deepspeed.loss_scale_window": _SCALER,
    "deepspeed.hysteresis": _SCALER,
    "deepspeed.min_loss_scale": _SCALER,
    "deepspeed.activation_checkpointing": "--checkpointing keeps them whole, on their GPU.",
    "deepspeed.optimizer.type": "AdamW trains; for an average of the weights see --ema-decay.",
    "deepspeed.optimizer.params.eps": "AdamW's is 1e-8 here.",
    "model": _BASE,
    "model.not_trainable_prefixes": "All weights of the transformer are trained; T5 and VAE are "
    "not.",
    "model.loss_fn_config": "The loss is SAT's for every variant.",
    "model.sampler_config": "Validation clips are sampled as the base's pipeline does.",
    "model.network_config.params.modules.lora_config": "The LoRA has a rank and an alpha; "
    "--targets says what it changes.",
}

REASONS = Reasons(_BY_BEGINNING, _UNKNOWN)
