"""How SAT's `model.yaml` has videos sampled: by which sampler, in how many steps, how guided.

What the keys do is read in zai-org/CogVideo, `sat/sgm/modules/diffusionmodules/sampling.py`,
`guiders.py` and `discretizer.py`.
"""

from conversion.number_ranges import COUNT, POSITIVE, Range
from conversion.sat_yaml import Entry, Reading
from predictors.request import MAX_GUIDANCE, MAX_STEPS, MIN_GUIDANCE
from sampling.sat_options import Options, last_part, missing, require_value
from weights.variants import LATENT_CHANNELS, TEMPORAL_COMPRESSION, Variant

_NETWORK = "model.network_config.params"
_DENOISER = "model.denoiser_config"
_SAMPLER = "model.sampler_config"
_GUIDER = f"{_SAMPLER}.params.guider_config"
_STEPS = f"{_SAMPLER}.params.num_steps"

_SCHEDULERS = {"VPSDEDPMPP2MSampler": "sat", "VideoDDIMSampler": "sat-ddim"}
_GUIDANCE: Range = (MIN_GUIDANCE, MAX_GUIDANCE)

# What another value would change in a video, and what can't be had here.
_DISCRETIZATION: dict[str, str | bool | float] = {
    "target": "ZeroSNRDDPMDiscretization",
    "params.linear_start": 0.00085,
    "params.linear_end": 0.012,
    "params.num_timesteps": 1000,
    "params.keep_start": False,
    "params.post_shift": False,
}
_FIXED: dict[str, str | bool | float] = {
    f"{_NETWORK}.out_channels": LATENT_CHANNELS,
    f"{_NETWORK}.time_compressed_rate": TEMPORAL_COMPRESSION,
    f"{_DENOISER}.target": "DiscreteDenoiser",
    f"{_DENOISER}.params.num_idx": 1000,
    f"{_DENOISER}.params.quantize_c_noise": False,
    f"{_DENOISER}.params.scaling_config.target": "VideoScaling",
    **{f"{_DENOISER}.params.discretization_config.{k}": v for k, v in _DISCRETIZATION.items()},
}
_FIXED_OF_SAMPLER: dict[str, str | bool | float] = {
    f"{_SAMPLER}.params.fixed_frames": 0,
    f"{_SAMPLER}.params.sdedit": False,
    **{f"{_SAMPLER}.params.discretization_config.{k}": v for k, v in _DISCRETIZATION.items()},
}


def read_sampler(options: Options, variant: Variant) -> tuple[str, ...]:
    """Read sampler, steps and guidance into the options; returns what the user should know.

    Raises:
        UserError: they are not such as can be sampled here, or contradict each other.
    """
    reading = options.reading
    for name, expected in _FIXED.items():
        if entry := reading.take(name):
            require_value(entry, expected)
    options.read("scheduler", f"{_SAMPLER}.target", _scheduler)
    if "scheduler" in options.values:
        for name, expected in _FIXED_OF_SAMPLER.items():
            if entry := reading.take(name):
                require_value(entry, expected)
        _check_shift(reading, variant)
    options.read("num_inference_steps", _STEPS, lambda entry: entry.whole_number((1, MAX_STEPS)))
    return _read_guider(options)


def _scheduler(entry: Entry) -> str:
    try:
        return _SCHEDULERS[last_part(entry)]
    except KeyError:
        raise entry.refused(
            f"{' or '.join(_SCHEDULERS)} is expected: SAT's other samplers are not offered here."
        ) from None


def _check_shift(reading: Reading, variant: Variant) -> None:
    """Sampler and denoiser have one noise schedule, that of the variant."""
    for place in (_DENOISER, _SAMPLER):
        config = f"{place}.params.discretization_config"
        entry = reading.take(f"{config}.params.shift_scale")
        if entry is not None:
            if entry.number(POSITIVE) != variant.snr_shift_scale:
                raise entry.refused(f"{variant.snr_shift_scale} is expected for {variant.name}.")
        elif reading.has(config) and variant.snr_shift_scale != 1:
            raise missing(reading, f"{config}.params.shift_scale")


def _read_guider(options: Options) -> tuple[str, ...]:
    reading, names = options.reading, (f"{_GUIDER}.target", f"{_GUIDER}.params.scale")
    if options.is_given("guidance_scale", "dynamic_guidance"):
        options.overrule("guidance_scale", *names)
        return ()
    target = reading.take(names[0])
    if target is None:
        if reading.peek(f"{_SAMPLER}.target") is None or reading.has(_GUIDER):
            return ()
        _default(options, "guidance_scale", 1.0)
        return (f"There is no {_GUIDER}: as in SAT, the prompt guides nothing.",)
    guider = last_part(target)
    if guider not in ("DynamicCFG", "VanillaCFG", "IdentityGuider"):
        raise target.refused("DynamicCFG, VanillaCFG or IdentityGuider is expected.")
    _default(options, "dynamic_guidance", guider == "DynamicCFG")
    if guider == "IdentityGuider":
        _default(options, "guidance_scale", 1.0)
    else:
        options.read("guidance_scale", names[1], lambda entry: entry.number(_GUIDANCE))
        _check_guider(options, dynamic=guider == "DynamicCFG")
    return ()


def _default(options: Options, option: str, value: bool | float) -> None:
    if not options.is_given(option):
        options.values[option] = value


def _check_guider(options: Options, *, dynamic: bool) -> None:
    reading = options.reading
    if entry := reading.take(f"{_GUIDER}.params.dyn_thresh_config.target"):
        require_value(entry, "NoDynamicThresholding")
    if not dynamic or options.is_given("dynamic_guidance"):
        return
    if entry := reading.take(f"{_GUIDER}.params.exp"):
        require_value(entry, 5)
    name = f"{_GUIDER}.params.num_steps"
    if options.is_given("num_inference_steps"):
        options.overrule("num_inference_steps", name)
        return
    entry, steps = reading.take(name), options.values.get("num_inference_steps")
    if entry and entry.whole_number(COUNT) != steps:
        raise entry.refused(f"The number of {_STEPS} is expected.")
