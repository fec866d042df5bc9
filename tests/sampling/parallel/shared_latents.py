"""Latents of tiny models by several processes, and how far they are from one process's.

`python -m tests.sampling.parallel.shared_latents PROCESSES` prints JSON: by case and layout the
largest difference, the largest value and what the last block of rank 0 got, (batch, tokens).
"""

import dataclasses
import json
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from sampling.parallel.layouts import Layout

GOLDEN = Path(__file__).parents[2] / "golden"
HEADS, TEXT = 4, 11
LAYOUTS = {
    2: (Layout(ulysses=2, cfg=1), Layout(ulysses=1, cfg=2)),
    4: (Layout(ulysses=4, cfg=1), Layout(ulysses=2, cfg=2)),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run of a golden model's pipeline with random embeddings; sizes in pixels."""

    golden: str
    width: int = 48
    height: int = 48
    guidance: float = 6
    videos: int = 1
    steps: int = 2
    speed: str = "quality"

    @property
    def name(self):
        parts = dataclasses.asdict(self) | {"golden": self.golden}
        return " ".join(str(part) for part in parts.values())


CASES = (
    Case(golden="2b"),
    Case(golden="5b"),
    # Its learned positions are made for this size and no other.
    Case(golden="5b_i2v", width=96, height=64),
    Case(golden="1.5_5b"),
    Case(golden="1.5_5b_i2v"),
    Case(golden="2b", guidance=1),
    Case(golden="2b", videos=2),
    # The preset computes blocks at some of the steps only.
    Case(golden="5b", steps=20, speed="fast"),
)


def pipeline(golden):
    """A pipeline without text encoder, the same each time."""
    import diffusers
    import torch

    config = json.loads((GOLDEN / golden / "diffusers_config.json").read_text())
    config |= {"num_attention_heads": HEADS, "max_text_seq_length": TEXT}
    torch.manual_seed(0)
    i2v = golden.endswith("i2v")
    pipeline_class = diffusers.CogVideoXImageToVideoPipeline if i2v else diffusers.CogVideoXPipeline
    pipe = pipeline_class(
        tokenizer=None,
        text_encoder=None,
        vae=diffusers.AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8),
            norm_num_groups=2,
            layers_per_block=1,
            latent_channels=16,
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
        ).eval(),
        transformer=diffusers.CogVideoXTransformer3DModel.from_config(config).eval(),
        scheduler=diffusers.CogVideoXDPMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        ),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe, case):
    import torch
    from PIL import Image

    from predictors.speed import speed_preset

    width = pipe.transformer.config.text_embed_dim
    texts = torch.randn(2, case.videos, TEXT, width, generator=torch.Generator().manual_seed(1))
    image = Image.linear_gradient("L").convert("RGB").resize((case.width, case.height))
    with speed_preset(pipe, case.speed, case.steps):
        return pipe(
            **({"image": image} if case.golden.endswith("i2v") else {}),
            prompt_embeds=texts[0],
            negative_prompt_embeds=texts[1],
            height=case.height,
            width=case.width,
            num_frames=9,
            num_inference_steps=case.steps,
            guidance_scale=case.guidance,
            use_dynamic_cfg=True,
            generator=[torch.Generator().manual_seed(seed) for seed in range(case.videos)],
            output_type="latent",
        ).frames


def run_rank(rank, processes, meeting_point, results):
    import torch
    import torch.distributed as dist

    from sampling.parallel.parallelize import parallelize

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=processes
    )
    found = {}
    for case in CASES:
        expected = latents(pipeline(case.golden), case) if rank == 0 else None
        for layout in LAYOUTS[processes]:
            pipe = pipeline(case.golden)
            shapes = []
            pipe.transformer.norm_final.register_forward_pre_hook(
                lambda _module, inputs, shapes=shapes: shapes.append(inputs[0].shape[:2])
            )
            parallelize(pipe, layout)
            got = latents(pipe, case)
            if rank == 0:
                found[f"{case.name} u{layout.ulysses} c{layout.cfg}"] = {
                    "difference": (got - expected).abs().max().item(),
                    "largest": expected.abs().max().item(),
                    "part": list(shapes[0]),
                }
    if rank == 0:
        results.send(found)
    dist.barrier()
    dist.destroy_process_group()


def main(processes):
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(
                target=run_rank, args=(rank, processes, f"{folder}/meeting-point", sender)
            )
            for rank in range(processes)
        ]
        for rank in ranks:
            rank.start()
        sender.close()
        try:
            print(json.dumps(receiver.recv()))
        finally:
            for rank in ranks:
                rank.join()


if __name__ == "__main__":
    main(int(sys.argv[1]))
