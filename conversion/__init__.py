"""Checkpoints in, diffusers folders out."""
