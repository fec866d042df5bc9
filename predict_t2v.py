"""What the text-to-video API accepts; everything else is in `predictors`.

Cog reads this file without running it. In the signature of `run` it understands literals only, one
string literal per description and `Optional[...]` spelled so: see cli/signature_rules.py.
"""

from typing import Optional

from cog import BaseRunner, Input, Path

from predictors.generate import generate
from predictors.pipeline import load_from_environment


class Runner(BaseRunner):  # type: ignore[misc]  # cog has no types of its own
    def setup(self) -> None:
        self.pipeline = load_from_environment("t2v")

    def run(
        self,
        prompt: str = Input(
            description="What the video shows, in English. Long, detailed descriptions work best.",
            default="A panda sits on a low wooden stool in a quiet bamboo forest and plays a small acoustic guitar. Its paws move over the strings, sunlight falls through the tall stems onto its fur, and a few other pandas watch and sway to the gentle tune.",  # noqa: E501
            min_length=1,
        ),
        num_inference_steps: int = Input(
            description="Denoising steps. More take longer and look better, up to about 50.",
            default=50,
            ge=1,
            le=500,
        ),
        guidance_scale: float = Input(
            description="How closely the video follows the prompt.",
            default=6,
            ge=1,
            le=20,
        ),
        num_frames: Optional[int] = Input(
            description="Frames in the video. Leave blank for the model's own number; others than it was made for are refused.",  # noqa: E501
            default=None,
            ge=1,
        ),
        seed: Optional[int] = Input(
            description="The same seed and inputs give the same video. Blank: a random one.",
            default=None,
            ge=0,
            le=2147483647,
        ),
    ) -> Path:
        return Path(
            generate(
                self.pipeline,
                prompt=prompt,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                num_frames=num_frames,
                seed=seed,
                record_metric=self.record_metric,
            )
        )
