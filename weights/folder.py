"""What a weights folder is: a diffusers folder, whole, and nothing odd in it."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args

from weights.errors import UserError
from weights.json_file import read_object
from weights.paths import is_reserved, path_problem
from weights.safetensors_header import read_header
from weights.variants import VARIANTS, Dtype, Variant, variant_named

_MODEL_CONFIG = "config.json"
# Which file a component's `save_pretrained` writes, by a part of its class's name.
_CONFIGS = {
    "Scheduler": "scheduler_config.json",
    "Tokenizer": "tokenizer_config.json",
    "Processor": "preprocessor_config.json",
    "Extractor": "preprocessor_config.json",
}


@dataclass(frozen=True, slots=True)
class WeightsFolder:
    """A weights folder that passed the structural check.

    `variant` and `dtype` are what `conversion.json` says; None where there is none.
    """

    path: Path
    pipeline: str
    variant: str | None
    dtype: Dtype | None


def _refuse(found: str, expected: str) -> NoReturn:
    raise UserError(
        found, expected, "Convert, copy or download the folder again, or point to another one."
    )


def _config_name(class_name: str) -> str:
    return next((file for part, file in _CONFIGS.items() if part in class_name), _MODEL_CONFIG)


def _components(index: dict[str, Any], path: Path) -> dict[str, str]:
    """Class name by component, of those that the pipeline really has."""
    components = {}
    for name, entry in index.items():
        if not isinstance(entry, list) or entry == [None, None]:
            continue
        if len(entry) != 2 or not all(isinstance(part, str) for part in entry):
            _refuse(
                f"{path} has {entry!r} as {name!r}.", "A component is a list of library and class."
            )
        if "/" in name or path_problem(name):
            _refuse(f"{path} names the component {name!r}.", "A component is a folder beside it.")
        components[name] = entry[1]
    return components


def _check_shards(component: Path) -> None:
    for index in sorted(component.glob("*.index.json")):
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
            _refuse(f"{index} has no weight_map.", "It is expected to name the shard of each key.")
        for shard in sorted(set(shards.values())):
            if "/" in shard or path_problem(shard) or not (component / shard).is_file():
                _refuse(
                    f"{index} lists the shard {shard!r}, which is not there.",
                    "Every shard is expected beside its index.",
                )
    for file in sorted(component.glob("*.safetensors")):
        read_header(file)


def _check_component(component: Path, class_name: str) -> None:
    config = component / _config_name(class_name)
    if not config.is_file():
        _refuse(
            f"There is no {config}.",
            f"model_index.json names the component {component.name} ({class_name}).",
        )
    read_object(config)
    _check_shards(component)
    if config.name == _MODEL_CONFIG and not any(component.glob("*.safetensors")):
        _refuse(
            f"{component} has no .safetensors file.",
            f"The weights of {class_name} are expected there.",
        )


def _origin(path: Path) -> tuple[str | None, Dtype | None]:
    """Variant and dtype as the conversion wrote them down."""
    record = path / "conversion.json"
    if not record.exists():
        return None, None
    fields = read_object(record)
    variant, dtype = fields.get("variant"), fields.get("dtype")
    if not isinstance(variant, str):
        _refuse(f"{record} says the variant {variant!r}.", "The name of a variant is expected.")
    if dtype not in get_args(Dtype):
        _refuse(
            f"{record} says the dtype {dtype!r}.", f"It is one of {', '.join(get_args(Dtype))}."
        )
    return variant_named(variant).name, dtype


def check_weights_folder(path: Path) -> WeightsFolder:
    """Check that `path` is a whole diffusers folder, by its names, configs and headers.

    No tensor is read, so this is quick at any size; a flipped bit in a tensor goes unseen.

    Raises:
        UserError: it is not, or it is not whole.
    """
    index_file = path / "model_index.json"
    if not index_file.is_file():
        what = "is not a weights folder" if path.is_dir() else "is not a folder"
        _refuse(f"{path} {what}.", "A diffusers folder with a model_index.json is expected.")
    index = read_object(index_file)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str):
        _refuse(f"{index_file} has no _class_name.", "It is expected to name a pipeline.")
    components = _components(index, index_file)
    if not components:
        _refuse(
            f"{index_file} names no component.", "A pipeline has a transformer, a VAE and so on."
        )
    for name, class_name in components.items():
        _check_component(path / name, class_name)
    variant, dtype = _origin(path)
    return WeightsFolder(path, pipeline, variant, dtype)


def _kind_problem(mode: int) -> str | None:
    if stat.S_ISLNK(mode):
        return "is a symbolic link (`cp -rL` makes a copy of the folder without links)"
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "is a device, a socket or a pipe"
    return None


def _raise(error: OSError) -> None:
    raise error


def list_files(folder: Path) -> list[str]:
    """Every file below `folder`, as sorted paths relative to it; an install's own are left out.

    Raises:
        UserError: something in it is no regular file or directory, or has an odd name.
        OSError: a directory can't be read.
    """
    files = []
    for directory, subfolders, names in os.walk(folder, onerror=_raise):
        if Path(directory) == folder:
            subfolders[:] = [name for name in subfolders if not is_reserved(name)]
            names = [name for name in names if not is_reserved(name)]
        for name in subfolders + names:
            entry = Path(directory, name)
            path = entry.relative_to(folder).as_posix()
            problem = path_problem(path) or _kind_problem(entry.lstat().st_mode)
            if problem:
                raise UserError(
                    f"{path!r} in {folder} {problem}.",
                    "A tarball holds regular files and directories with plain names only.",
                    "Rename it, replace it or take it out of the folder.",
                )
            if name in names:
                files.append(path)
    return sorted(files)


def variant_of(folder: WeightsFolder) -> Variant:
    """The variant a weights folder holds: what its record says, else what its numbers tell.

    Folders saved by plain diffusers have no record.

    Raises:
        UserError: no variant has the numbers of its transformer/config.json.
    """
    if folder.variant is not None:
        return variant_named(folder.variant)
    config = read_object(folder.path / "transformer" / "config.json")
    found = {name: config.get(name) for name in _telling_numbers(variant_named("nano"))}
    for variant in VARIANTS.values():
        if _telling_numbers(variant) == found:
            return variant
    numbers = ", ".join(f"{name} {value}" for name, value in found.items())
    raise UserError(
        f"{folder.path} holds a transformer of no variant we know ({numbers}).",
        f"The variants are {', '.join(VARIANTS)}.",
        "Use the weights of one of these, or add the variant to weights/variants.py.",
    )


def _telling_numbers(variant: Variant) -> dict[str, int | None]:
    """The numbers of a transformer's config.json that tell the variants apart."""
    return {
        "num_layers": variant.num_layers,
        "num_attention_heads": variant.num_heads,
        "in_channels": variant.in_channels,
        "text_embed_dim": variant.text_embed_dim,
        "patch_size_t": variant.patch_size_t,
        "ofs_embed_dim": variant.ofs_embed_dim,
    }
