"""A tiny pipeline saved by plain diffusers, and the real Cog server running it, for all tests."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from weights.variants import VARIANTS, Task, Variant

# Set before any test imports a Hugging Face library: tests never ask the network.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
# A shell's background job has Ctrl-C ignored, and so would have every process that tests begin.
signal.signal(signal.SIGINT, signal.default_int_handler)


class RecordedLines:
    """The lines a server's runner prints, and a way to wait for one without sleeping."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()

    def add(self, line: str) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def position(self) -> int:
        return len(self._lines)

    def since(self, position: int) -> list[str]:
        return self._lines[position:]

    def wait_for(self, text: str, since: int) -> None:
        with self._changed:
            found = self._changed.wait_for(
                lambda: any(text in line for line in self.since(since)), timeout=60
            )
        assert found, f"no line with {text!r} in {self.since(since)}"


@dataclass(frozen=True)
class RecordedServer:
    """The session's server, and every line its runner has printed."""

    url: str
    lines: RecordedLines


@pytest.fixture
def recorded_lines() -> RecordedLines:
    return RecordedLines()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder of nano's shape with random weights."""
    return _tiny_folder(tmp_path_factory, "nano")


@pytest.fixture(scope="session")
def tiny_i2v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder of nano-i2v's shape with random weights."""
    return _tiny_folder(tmp_path_factory, "nano-i2v")


def _tiny_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    folder = tmp_path_factory.mktemp("weights") / name
    save_tiny_pipeline(VARIANTS[name], folder)
    (folder / "conversion.json").write_text(json.dumps({"variant": name, "dtype": "float32"}))
    return folder


@pytest.fixture(scope="session")
def server(tiny_folder: Path) -> Iterator[RecordedServer]:
    """The real Cog server for predict_t2v.py on `tiny_folder`, started once."""
    yield from _recorded_server("t2v", tiny_folder)


@pytest.fixture(scope="session")
def i2v_server(tiny_i2v_folder: Path) -> Iterator[RecordedServer]:
    """The real Cog server for predict_i2v.py on `tiny_i2v_folder`, started once."""
    yield from _recorded_server("i2v", tiny_i2v_folder)


def _recorded_server(task: Task, folder: Path) -> Iterator[RecordedServer]:
    from cli.runners import RUNNERS
    from cli.server import running_server

    lines = RecordedLines()
    with running_server(RUNNERS[task], weights=str(folder), on_line=lines.add) as running:
        yield RecordedServer(running.url, lines)


def save_tiny_pipeline(variant: Variant, folder: Path) -> None:
    """Save a random pipeline with the numbers of `variant` as plain diffusers does."""
    import diffusers
    import torch
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    torch.manual_seed(0)
    pieces = ["<pad>", "</s>", "<unk>", *"▁abcdefghijklmnopqrstuvwxyz"]
    i2v = variant.task == "i2v"
    pipeline = diffusers.CogVideoXImageToVideoPipeline if i2v else diffusers.CogVideoXPipeline
    pipeline(
        tokenizer=T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0),
        text_encoder=T5EncoderModel(
            T5Config(
                vocab_size=len(pieces),
                d_model=variant.text_embed_dim,
                d_kv=32,
                d_ff=128,
                num_layers=1,
                num_heads=2,
            )
        ),
        vae=diffusers.AutoencoderKLCogVideoX(
            block_out_channels=variant.vae_channels,
            layers_per_block=variant.vae_layers_per_block,
            norm_num_groups=variant.vae_norm_groups,
            latent_channels=16,
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            scaling_factor=variant.vae_scaling_factor,
        ),
        transformer=diffusers.CogVideoXTransformer3DModel(
            num_layers=variant.num_layers,
            num_attention_heads=variant.num_heads,
            attention_head_dim=64,
            in_channels=variant.in_channels,
            out_channels=16,
            time_embed_dim=variant.time_embed_dim,
            text_embed_dim=variant.text_embed_dim,
            max_text_seq_length=variant.text_tokens,
            sample_frames=variant.sample_frames,
            sample_height=variant.sample_height,
            sample_width=variant.sample_width,
        ),
        scheduler=diffusers.CogVideoXDPMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=variant.snr_shift_scale,
            timestep_spacing="trailing",
        ),
    ).save_pretrained(folder)
