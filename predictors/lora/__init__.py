"""A LoRA that a request names: found, fetched, checked, and put into the pipeline."""
