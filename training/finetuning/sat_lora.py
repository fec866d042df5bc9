"""A trained LoRA in the layout that SAT's own training saves, for who goes on there.

What SAT does (SwissArmyTransformer, `training/model_io.py`, `model/finetune/lora2.py`; CogVideo,
`sat/sample_video.py`, `sat/configs/`):

- It loads one checkpoint, not a base and then a LoRA: `load` names a folder whose `latest` names a
  step, a number above 0, whose folder holds the file. So the file has the whole transformer, the
  weights under the LoRA at `.original.`. One with the matrices alone would load as well, without an
  error, onto weights that were never initialised: SAT's LoRA layers report no missing tensor, and
  its settings (`force_inference`, `force_train`) turn the error for all others off. So there is no
  small file here.
- What SAT computes or loads from elsewhere is left out, as in released weights: position tables
  that are not learned, `conditioner.*` and `first_stage_model.*`.
- Its LoRA is one of to_q, to_k, to_v and to_out.0 in every layer, with scale alpha / rank. Alpha is
  1 unless a yaml says otherwise, and no file records it. So B is multiplied by our alpha here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from conversion.diffusers_folder import OpenFolder, open_folder
from conversion.lora import Lora, plan_adapter
from conversion.new_folder import check_destination, new_folder
from conversion.pt_writer import write_pt
from conversion.rules import PlannedTensor
from conversion.sat_writer import SatFile, model_yaml, planned_transformer
from conversion.tensor_source import FileTensors
from conversion.transformer_rules import PREFIX
from training.finetuning.lora import block_targets, short_names
from training.finetuning.lora_file import check_finite, planned_as_they_are
from weights.adapter_names import FACTORS, SAT_MODULES, sat_name
from weights.disk_space import check_space
from weights.errors import UserError
from weights.variants import Variant

_SAT_TARGETS = tuple(module for modules in SAT_MODULES.values() for module in modules)
_FILE = "mp_rank_00_model_states.pt"


def check_sat_targets(targets: Sequence[str]) -> None:
    """Check that SAT's layout has a place for a LoRA of these targets, and that none is missing.

    Raises:
        UserError: it is not so.
    """
    if set(block_targets(targets)) != set(_SAT_TARGETS):
        raise UserError(
            f"The LoRA's targets are {', '.join(short_names(block_targets(targets)))}.",
            f"SAT's LoRA changes {', '.join(short_names(_SAT_TARGETS))}, all of them and no more.",
            "Train these targets, or save for diffusers.",
        )


def save_sat_lora(
    state: Mapping[str, torch.Tensor], folder: Path, *, base: Path, alpha: float, step: int
) -> None:
    """Write a new folder with `latest`, the step's checkpoint and the settings in `model.yaml`.

    `cogvideox convert-lora` reads it back: A bit for bit, and B·alpha for alpha = 1.

    Args:
        state: from `adapter_state`, on any device.
        base: the weights folder that was trained on.
        alpha: of the training; SAT's own is 1.
        step: how many steps were trained.

    Raises:
        UserError: `folder` is taken, or the LoRA is not of SAT's targets or not for `base`.
        OperationError: the disk is too small, or a value is not finite.
    """
    check_destination(folder)
    opened = open_folder(base)
    planned = planned_transformer(
        opened.transformer_architecture,
        opened.transformer,
        learned_positions=opened.variant.learned_positions,
    )
    lora = _sat_lora(state, opened, alpha)
    plan = [_moved(tensor) for tensor in planned.plan.tensors] + planned_as_they_are(lora.tensors)
    source = FileTensors({**opened.transformer, **lora.tensors})
    check_space(folder, sum(tensor.nbytes for tensor in source.tensors.values()))
    with new_folder(folder) as partial:
        _write(partial, planned, plan, source, step)
        text = yaml.safe_dump(_settings(opened.variant, lora.rank), sort_keys=False)
        (partial / "model.yaml").write_text(text)


def _sat_lora(state: Mapping[str, torch.Tensor], opened: OpenFolder, alpha: float) -> Lora:
    """The LoRA by SAT's names, for alpha = 1."""
    layers, width = opened.variant.num_layers, opened.variant.hidden_size
    names = {
        f"transformer_blocks.{n}.{module}.lora_{factor}.weight": sat_name(n, sat_module, factor, i)
        for n in range(layers)
        for sat_module, modules in SAT_MODULES.items()
        for i, module in enumerate(modules)
        for factor in FACTORS
    }
    # An unknown name stays, for the message that names it.
    tensors = {names.get(name, name): matrix.detach().to("cpu") for name, matrix in state.items()}
    tensors = {n: t * alpha if ".matrix_B." in n else t for n, t in tensors.items()}
    check_finite(tensors)
    rank = next((int(t.shape[0]) for name, t in tensors.items() if ".matrix_A." in name), 0)
    lora = Lora(tensors, rank, layers, width)
    plan_adapter(lora, "trained LoRA")
    return lora


def _moved(tensor: PlannedTensor) -> PlannedTensor:
    """The planned tensor under the name it has below a LoRA."""
    for module in SAT_MODULES:
        if f".{module}." in tensor.name:
            moved = tensor.name.replace(f".{module}.", f".{module}.original.")
            return replace(tensor, name=moved)
    return tensor


def _write(
    folder: Path, planned: SatFile, plan: list[PlannedTensor], source: FileTensors, step: int
) -> None:
    (folder / str(step)).mkdir()
    with (folder / str(step) / _FILE).open("wb") as file:
        write_pt(file, planned.outer_key, plan, source, prefix=PREFIX)
    (folder / "latest").write_text(str(step))


def _settings(variant: Variant, rank: int) -> dict[str, Any]:
    """`model.yaml` as for the base, with the LoRA where SAT's own yaml files have it."""
    settings = model_yaml(variant)
    modules = settings["model"]["network_config"]["params"]["modules"]
    modules["lora_config"] = {
        "target": "sat.model.finetune.lora2.LoraMixin",
        "params": {"r": rank},
    }
    return settings
