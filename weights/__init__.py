"""Weights at rest, from a folder to a bucket to a container; docs/weights.md is the format.

- What things are: `variants`, `folder` (a weights folder), `lock`, `install_check` (an install).
- Their ways: `packing`, `pushing` (with `buckets`), `fetching`, `install` (with `staging`),
  `caching`, `signature`.
"""
