"""What nano learns from, how it is trained, and how it is judged: clips of one moving shape.

Scenes: `scenes` draws and renders them; `prompts` says them in words, and names the combinations of
words that training leaves out.

Training: `python -m training.nano` runs the three recipes, each a command with a file of settings
beside it, each on what the one before made: `vae_recipe`, `text_to_video_recipe`,
`image_to_video_recipe`. `models` makes the untrained models, `trained_models` loads what another
recipe trained, `latent_moments` gives the VAE's latents mean 0 and variance 1, and `clips` keeps
the encoded clips of a run.

Judging: `tracker` finds the shape, colour and direction in a clip with the outlines of `outline`,
`score` counts over many, `sampling` asks a trained pipeline for clips, and `evaluate` does both.
`release` writes what ships, with its `model_card`.
"""
