"""Puts a LoRA into a loaded pipeline for one request, and takes it out without a trace.

diffusers' own `load_lora_weights` is not used for this. It takes a pipeline's offloading off and
sets it up again, which on a GPU pins the whole model anew and forgets the device, and leaves it off
where that fails; and it needs names and an alpha that half of the files lack. Swapping a module for
a layer that holds it is all there is to do, and swapping it back restores every bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from predictors.lora.adapter_file import Adapter, read_adapter
from predictors.uninterrupted import uninterrupted
from weights.variants import Variant


class Adapters:
    """The LoRAs of one loaded pipeline: at most one at a time, each for one request.

    The last file read is kept in main memory, so that a request with the LoRA of the one before
    reads nothing.
    """

    def __init__(self, transformer: Any, variant: Variant) -> None:
        """`transformer` is the pipeline's, set up for good: offloaded, quantised or compiled."""
        self._transformer = transformer
        self._variant = variant
        self._kept: tuple[tuple[Any, ...], Adapter] | None = None

    @contextmanager
    def applied(self, path: Path | None, scale: float) -> Iterator[None]:
        """The transformer has the LoRA in the file `path`, or none, until the block ends.

        For requests without a LoRA, too: one that was cancelled before may have left its own in.
        Prints what is applied, and what of it had to be assumed.

        Args:
            path: a .safetensors file on this disk.
            scale: 1 acts as strongly as in training, 0 not at all.

        Raises:
            UserError: the file is no LoRA for this model.
        """
        uninterrupted(lambda: _restore(self._transformer))
        adapter = self._read(path) if path else None
        if adapter is None or scale == 0:
            yield
            return
        _print_about(adapter, scale)
        try:
            _insert(self._transformer, adapter, scale)
            yield
        finally:
            uninterrupted(lambda: _restore(self._transformer))

    def _read(self, path: Path) -> Adapter:
        stat = path.stat()
        state = (path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if self._kept and self._kept[0] == state:
            return self._kept[1]
        # Dropped before the next is read: two LoRAs never take memory at once.
        self._kept = None
        adapter = read_adapter(path, self._variant)
        self._kept = (state, adapter)
        return adapter


def _insert(transformer: Any, adapter: Adapter, scale: float) -> None:
    from predictors.lora.lora_layer import LoraLayer

    for name, pair in adapter.pairs.items():
        base = transformer.get_submodule(name)
        transformer.set_submodule(name, LoraLayer(base, pair, scale))


def _restore(transformer: Any) -> None:
    """Put back every module that a LoRA stands in for; does nothing where there is none."""
    from predictors.lora.lora_layer import LoraLayer

    layers = [(n, m) for n, m in transformer.named_modules() if isinstance(m, LoraLayer)]
    for name, layer in layers:
        transformer.set_submodule(name, layer.base)


def _print_about(adapter: Adapter, scale: float) -> None:
    ranks = sorted({pair.rank for pair in adapter.pairs.values()})
    shown = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    print(
        f"LoRA: {len(adapter.pairs)} modules, {shown}, {adapter.style} names, scale {scale:g}.",
        *adapter.notes,
        flush=True,
    )
