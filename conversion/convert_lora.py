"""SAT LoRA → one `.safetensors` that plain `pipe.load_lora_weights` takes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conversion.lora import DEFAULT_ALPHA, Lora, adapter_metadata, plan_adapter
from conversion.plan import read_settings
from conversion.safetensors_writer import Cast, Shard, plan_shards, write_shard
from conversion.sat_layout import locate
from conversion.tensor_source import FileTensors
from conversion.transformer_file import TransformerFile, open_transformer
from weights.atomic import replacing
from weights.errors import UserError


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """What becomes of a SAT LoRA."""

    transformer: TransformerFile
    lora: Lora
    alpha: float
    shard: Shard

    @property
    def variant(self) -> str:
        """The base model the LoRA is for."""
        return self.transformer.detection.variant.name


def plan_lora(
    source: Path,
    *,
    config: Path | None = None,
    variant: str | None = None,
    alpha: float = DEFAULT_ALPHA,
    cast: Cast | None = None,
) -> AdapterPlan:
    """Read and check a LoRA; writes nothing.

    Args:
        source: what SAT's training wrote: a directory with `transformer/`, a run with `latest`,
            or a checkpoint file.
        config: SAT's `model.yaml`; default: the one in `source`, if there is one.
        variant: overrides what keys and shapes tell.
        alpha: SAT's lora_alpha, which its files do not record.
        cast: what becomes of the dtype.

    Raises:
        UserError: there is no LoRA, or one with missing layers; it names them.
    """
    if alpha <= 0:
        raise UserError(
            f"--alpha is {alpha:g}.", "A positive number is expected.", "SAT's default is 1."
        )
    layout = locate(source)
    transformer = open_transformer(layout, read_settings(layout, config), variant)
    lora = transformer.read_lora()
    plan = plan_adapter(lora, f"LoRA {transformer.path}")
    # An adapter is one file, however large.
    total = sum(tensor.nbytes for tensor in lora.tensors.values())
    (shard,) = plan_shards(plan.tensors, FileTensors(lora.tensors), cast or Cast(), 4 * total)
    return AdapterPlan(transformer, lora, alpha, shard)


def convert_lora(
    plan: AdapterPlan, destination: Path, *, advance: Callable[[int], object] = lambda _: None
) -> None:
    """Write the adapter; `destination` is replaced when the new file is complete.

    Raises:
        OperationError: a value does not fit into the dtype asked for.
    """
    metadata = adapter_metadata(plan.lora, plan.alpha, plan.variant)
    with replacing(destination) as file:
        write_shard(
            file, plan.shard, FileTensors(plan.lora.tensors), metadata=metadata, advance=advance
        )
