"""What the image-to-video API accepts; everything else is in `predictors`.

Cog reads this file without running it. In the signature of `run` it understands literals only, one
string literal per description and `Optional[...]` spelled so: see cli/signature_rules.py.
"""

from typing import Optional

from cog import BaseRunner, Input, Path

from predictors.generate import generate
from predictors.video_model import load_from_environment


class Runner(BaseRunner):  # type: ignore[misc]  # cog has no types of its own
    def setup(self) -> None:
        self.model = load_from_environment("i2v")

    def healthcheck(self) -> bool:
        return self.model.is_healthy()

    def run(
        self,
        prompt: str = Input(
            description="What happens in the video, in English. Detailed descriptions work best.",
            default="Starry sky slowly rotating.",
            min_length=1,
            max_length=10000,
        ),
        image: Path = Input(
            description="The first frame: PNG, JPEG, WebP or GIF.",
        ),
        image_fit: str = Input(
            description="How an image of another shape is made to fit. crop: cut at the edges; pad: black bars; stretch: distort.",  # noqa: E501
            default="crop",
            choices=["crop", "pad", "stretch"],
        ),
        negative_prompt: str = Input(
            description="What the video should not show. It has no effect at guidance_scale 1.",
            default="",
            max_length=10000,
        ),
        num_frames: Optional[int] = Input(
            description="Frames in the video. Leave blank for the model's own number; others than it was made for are refused.",  # noqa: E501
            default=None,
            ge=1,
        ),
        width: int = Input(
            description="Width in pixels. 0: as the image, as far as the model can; others than it was made for are refused.",  # noqa: E501
            default=0,
            ge=0,
            le=4096,
        ),
        height: int = Input(
            description="Height in pixels. 0: as the image, as far as the model can; others than it was made for are refused.",  # noqa: E501
            default=0,
            ge=0,
            le=4096,
        ),
        num_inference_steps: int = Input(
            description="Denoising steps. More take longer and look better, up to about 50.",
            default=50,
            ge=1,
            le=500,
        ),
        guidance_scale: float = Input(
            description="How closely the video follows the prompt. At 1 the negative prompt is ignored and a step takes half the time.",  # noqa: E501
            default=6,
            ge=1,
            le=20,
        ),
        dynamic_guidance: Optional[bool] = Input(
            description="Vary the guidance from step to step, between 1 and guidance_scale + 1, as the model's authors do. Leave blank for their choice: with the dpm scheduler, not with ddim.",  # noqa: E501
            default=None,
        ),
        scheduler: str = Input(
            description="How the noise is taken away. auto: the one that the model was released with.",  # noqa: E501
            default="auto",
            choices=["auto", "dpm", "ddim"],
        ),
        seed: Optional[int] = Input(
            description="The same seed and inputs give the same video. Blank: a random one.",
            default=None,
            ge=0,
            le=2147483647,
        ),
        fps: int = Input(
            description="Frames per second at which the video plays, for gif up to 50. 0: the model's own.",  # noqa: E501
            default=0,
            ge=0,
            le=60,
        ),
        lora: str = Input(
            description="A LoRA for this model as .safetensors: an https URL, a Hugging Face owner/repo or owner/repo/file, or a Civitai page. Blank: none.",  # noqa: E501
            default="",
            max_length=2000,
        ),
        lora_scale: float = Input(
            description="How strongly the LoRA acts; 1 means as it was trained.",
            default=1,
            ge=-4,
            le=4,
        ),
        speed: str = Input(
            description="quality: every step in full. balanced and fast: parts of a step are taken over from the one before, at some loss of detail.",  # noqa: E501
            default="quality",
            choices=["quality", "balanced", "fast"],
        ),
        output_format: str = Input(
            description="mp4 (H.264) plays everywhere, webm (VP9) is smaller, gif needs no player.",
            default="mp4",
            choices=["mp4", "webm", "gif"],
        ),
        output_quality: int = Input(
            description="Of the encoded file; higher is larger.",
            default=80,
            ge=1,
            le=100,
        ),
    ) -> Path:
        inputs = {name: value for name, value in locals().items() if name != "self"}
        return Path(generate(self.model, inputs, record_metric=self.record_metric))
