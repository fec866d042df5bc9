"""Weights at rest: variants, weights folders, tarballs, locks, installs."""
