"""Checkpoints in, diffusers folders out.

- The table and its engine: `rules`, `transformer_rules`, `vae_rules`, `lora`.
- Opening files that nobody vouches for: `checkpoint`, and behind it `zip_check`, `pickle_check`,
  `pickle_calls`, `pickle_nesting`, `tensor_claims`, `safetensors_reader`.
- What a source is: `sat_layout`, `sat_config`, `transformer_file`, `detection`, `inspection`,
  `text_encoder`, `diffusers_folder`.
- Deciding, then doing: `plan` and `component_configs`, then `convert`, `convert_lora` and
  `sat_writer`. Below them `tensor_source`, `safetensors_writer`, `pt_writer`,
  `background_digest`, `file_digest`, `new_folder` and `resumable_folder`.
- Proving and publishing: `verification`, `trial_forward`, `hub`.
- Nano's T5 and tokenizer: `nano_text_encoder`.
"""
