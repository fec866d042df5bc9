"""Installs and LoRA files that processes share below a size limit: `use.use_install`."""
