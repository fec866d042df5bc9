"""Say what a checkpoint is: variant, sizes, dtype, and what else the file carries."""

import argparse
import json
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  cogvideox inspect CogVideoX-5b-sat
  cogvideox inspect ckpts/lora-run/1000/mp_rank_00_model_states.pt --config model.yaml
  cogvideox inspect CogVideoX-5b-sat --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="SAT directory or .pt file")
    parser.add_argument("--config", type=Path, metavar="YAML", help="SAT's model.yaml")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _document(source: Path, config: Path | None) -> dict[str, Any]:
    from conversion.inspection import inspect

    found = inspect(source, config)
    a, variant = found.transformer, found.detection.variant if found.detection else None
    return {
        "variant": variant.name if variant else None,
        "released_sizes": found.detection.exact if found.detection else None,
        "undetected": found.undetected,
        "task": variant.task if variant else None,
        "transformer": a
        and {
            "layers": a.num_layers,
            "heads": a.num_heads,
            "hidden_size": a.hidden_size,
            "in_channels": a.in_channels,
            "patch": [a.patch_size_t or 1, a.patch_size, a.patch_size],
            "text_width": a.text_embed_dim,
        },
        "latents": variant
        and {
            "frames": variant.sample_frames,
            "height": variant.sample_height,
            "width": variant.sample_width,
            "text_tokens": variant.text_tokens,
        },
        "vae": found.vae
        and {
            "channels": list(found.vae.channels),
            "layers_per_block": found.vae.layers_per_block,
            "latent_channels": found.vae.latent_channels,
        },
        "text_encoder": str(found.text_encoder) if found.text_encoder else None,
        "config": str(found.config) if found.config else None,
        "lora": {"rank": found.lora_rank, "modules": found.lora_modules}
        if found.lora_rank
        else None,
        "carries": list(found.carries),
        "files": [
            {
                "path": str(file.path),
                "tensors": file.tensors,
                "parameters": file.parameters,
                "bytes": file.size,
                "dtypes": list(file.dtypes),
            }
            for file in found.files
        ],
    }


def _variant_line(document: dict[str, Any]) -> str:
    if document["variant"] is None:
        return f"unknown. {document['undetected'] or 'There is no transformer.'}"
    own = "" if document["released_sizes"] else ", with sizes of its own"
    return f"{document['variant']} ({document['task']}{own})"


def _lines(document: dict[str, Any]) -> list[str]:
    lines = [f"variant       {_variant_line(document)}"]
    if t := document["transformer"]:
        lines.append(
            f"transformer   {t['layers']} layers, {t['heads']} heads, width {t['hidden_size']}, "
            f"{t['in_channels']} channels in, patches {'×'.join(map(str, t['patch']))}"
        )
    if z := document["latents"]:
        lines.append(
            f"latents       {z['width']}×{z['height']} for {z['frames']} frames, "
            f"{z['text_tokens']} prompt tokens"
        )
    if v := document["vae"]:
        lines.append(
            f"VAE           channels {', '.join(map(str, v['channels']))}, "
            f"{v['layers_per_block']} layers a block, {v['latent_channels']} latent channels"
        )
    lines.append(f"text encoder  {document['text_encoder'] or 'none beside the checkpoint'}")
    lines.append(f"model.yaml    {document['config'] or 'none'}")
    if lora := document["lora"]:
        lines.append(f"LoRA          rank {lora['rank']} in {lora['modules']} modules")
    lines += [f"also          {words}" for words in document["carries"]]
    for file in document["files"]:
        lines.append(
            f"file          {file['path']}: {file['tensors']} tensors, "
            f"{file['parameters'] / 1e6:,.1f} M parameters, {file['bytes'] / 1e6:,.1f} MB, "
            f"{' and '.join(file['dtypes'])}"
        )
    return lines


def run(options: argparse.Namespace) -> int:
    document = _document(options.source, options.config)
    print(json.dumps(document, indent=2) if options.json else "\n".join(_lines(document)))
    return 0
