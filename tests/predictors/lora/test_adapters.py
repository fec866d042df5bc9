"""A LoRA in a pipeline: as strong as it was trained, and gone without a trace afterwards."""

import gc
import itertools
import os
from dataclasses import replace
from pathlib import Path

import accelerate
import diffusers
import pytest
import torch
from cog import CancelationException
from safetensors.torch import load_file

from conversion.component_configs import transformer_config
from conversion.convert import convert
from conversion.convert_lora import convert_lora, plan_lora
from conversion.plan import ConversionOptions, plan_conversion
from predictors.lora.adapter_file import LoraPair
from predictors.lora.adapters import Adapters
from predictors.lora.lora_layer import LoraLayer
from tests.predictors.interrupting import interrupted_at_line
from tests.predictors.lora.lora_files import (
    attention_modules,
    kohya_tensors,
    peft_metadata,
    peft_tensors,
    processor_tensors,
    random_pairs,
    sat_tensors,
    write,
)
from weights.errors import UserError
from weights.transformer_modules import module_shapes
from weights.variants import VARIANTS

NANO = VARIANTS["nano"]
GOLDEN = Path(__file__).resolve().parents[2] / "golden"
# The limits of the golden READMEs, as tests/conversion/test_golden.py has them.
AS_IS, WITH_SATS_EPS, SATS_EPS = 1e-4, 1e-5, 1e-6


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads gain nothing on matrices this small, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def nano_transformer(dtype=torch.float32):
    torch.manual_seed(0)
    config = transformer_config(NANO)
    return diffusers.CogVideoXTransformer3DModel.from_config(config).to(dtype).eval()


def output(transformer):
    generator = torch.Generator().manual_seed(1)
    dtype = transformer.dtype
    latents = torch.randn(1, 3, 16, 8, 8, generator=generator).to(dtype)
    text = torch.randn(1, NANO.text_tokens, NANO.text_embed_dim, generator=generator).to(dtype)
    with torch.no_grad():
        return transformer(latents, text, torch.tensor([500])).sample


@pytest.fixture
def transformer():
    return nano_transformer()


@pytest.fixture
def lora(tmp_path):
    """A LoRA that says nothing of itself but its alpha."""
    return write(tmp_path / "a.safetensors", peft_tensors(random_pairs(NANO)), peft_metadata(2))


@pytest.fixture
def other_lora(tmp_path):
    pairs = random_pairs(NANO, ["proj_out", "transformer_blocks.2.ff.net.2"], rank=3, seed=9)
    return write(tmp_path / "b.safetensors", peft_tensors(pairs))


def applied_output(transformer, path, scale=1.0, variant=NANO):
    with Adapters(transformer, variant).applied(path, scale):
        return output(transformer)


# As strong as trained.


@pytest.fixture(scope="module", params=["lora_2b", "lora_5b"])
def golden_lora(request, tmp_path_factory):
    """A golden SAT LoRA: its base, converted, its numbers, and the LoRA in three files."""
    name, root = request.param, tmp_path_factory.mktemp(request.param)
    source, config = GOLDEN / name / "sat", GOLDEN / name / "model.yaml"
    vae = GOLDEN / "vae" / "sat" / "vae" / "3d-vae.pt"
    options = ConversionOptions(config=config, vae=vae, lora="leave out")
    convert(plan_conversion(source, options), root / "base")
    checkpoint = source / "transformer" / "1" / "mp_rank_00_model_states.pt"
    module = torch.load(checkpoint, weights_only=True)["module"]
    sat = {name: tensor for name, tensor in module.items() if ".matrix_" in name}
    prefix = "model.diffusion_model."
    write(root / "sat.safetensors", sat)
    write(root / "bare.safetensors", {n.removeprefix(prefix): t for n, t in sat.items()})
    convert_lora(plan_lora(source, config=config), root / "converted.safetensors")
    return root, load_file(GOLDEN / name / "io.safetensors"), VARIANTS[f"cogvideox-{name[5:]}"]


def golden_error(model, tensors, case):
    numbers = {k.removeprefix(f"{case}."): t for k, t in tensors.items() if k.startswith(case)}
    rope = (numbers["rope_cos"], numbers["rope_sin"]) if "rope_cos" in numbers else None
    with torch.no_grad():
        out = model(
            numbers["x"], numbers["context"], numbers["timesteps"], image_rotary_emb=rope
        ).sample
    return (out - numbers["out"]).abs().max().item()


@pytest.mark.parametrize("file", ["sat", "bare", "converted"])
def test_a_sat_lora_computes_what_sat_computes(file, golden_lora):
    root, tensors, variant = golden_lora
    tiny = replace(
        variant, num_layers=2, num_heads=2, time_embed_dim=48, text_embed_dim=40, text_tokens=10
    )
    model = diffusers.CogVideoXTransformer3DModel.from_pretrained(root / "base" / "transformer")
    adapters = Adapters(model, tiny)
    with adapters.applied(root / f"{file}.safetensors", 1.0):
        assert golden_error(model, tensors, "case0") <= AS_IS
        model.norm_out.norm.eps = SATS_EPS
        assert golden_error(model, tensors, "case0") <= WITH_SATS_EPS
        assert golden_error(model, tensors, "case1") <= WITH_SATS_EPS
    with adapters.applied(root / f"{file}.safetensors", 1.01):
        assert golden_error(model, tensors, "case0") > WITH_SATS_EPS
    assert golden_error(model, tensors, "case0") > 100 * AS_IS


def test_every_style_gives_the_same_bits(transformer, tmp_path):
    pairs = random_pairs(NANO)
    rank = 4
    files = [
        write(tmp_path / f"{index}.safetensors", tensors, metadata)
        for index, (tensors, metadata) in enumerate(
            [
                (sat_tensors(pairs), None),
                (sat_tensors(pairs, prefix=""), None),
                (peft_tensors(pairs), peft_metadata(1)),
                (peft_tensors(pairs, prefix=""), peft_metadata(1)),
                (peft_tensors(pairs, prefix="base_model.model."), peft_metadata(1)),
                (processor_tensors(pairs), peft_metadata(1, r=rank)),
                (kohya_tensors(pairs, 1), None),
            ]
        )
    ]
    first, *others = [applied_output(transformer, file) for file in files]
    assert not torch.equal(first, output(transformer))
    for other in others:
        assert torch.equal(other, first)


def plain_diffusers_output(transformer, path, scale):
    pipe = diffusers.CogVideoXPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=transformer,
        scheduler=diffusers.CogVideoXDDIMScheduler(),
    )
    pipe.load_lora_weights(str(path), adapter_name="lora")
    pipe.set_adapters("lora", scale)
    return output(transformer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, -0.7])
def test_it_is_bit_for_bit_what_diffusers_computes(dtype, scale, tmp_path):
    """On every module there is, the convolution included, with a rank that differs."""
    pairs = random_pairs(NANO, module_shapes(NANO), rank=3)
    pairs |= random_pairs(NANO, ["proj_out"], rank=2)
    pairs = {m: (0.3 * a.to(dtype), 0.3 * b.to(dtype)) for m, (a, b) in pairs.items()}
    path = write(tmp_path / "lora.safetensors", peft_tensors(pairs))
    ours = applied_output(nano_transformer(dtype), path, scale)
    assert torch.equal(ours, plain_diffusers_output(nano_transformer(dtype), path, scale))
    assert not torch.equal(ours, output(nano_transformer(dtype)))


def test_a_lora_of_another_dtype_runs_in_the_models(tmp_path):
    pairs = {m: (a.half(), b.half()) for m, (a, b) in random_pairs(NANO).items()}
    path = write(tmp_path / "lora.safetensors", peft_tensors(pairs))
    model = nano_transformer(torch.bfloat16)
    assert applied_output(model, path).dtype == torch.bfloat16
    widened = {m: (a.float(), b.float()) for m, (a, b) in pairs.items()}
    write(tmp_path / "wide.safetensors", peft_tensors(widened))
    model = nano_transformer()
    assert torch.equal(
        applied_output(model, path), applied_output(model, tmp_path / "wide.safetensors")
    )


def test_the_scale_is_linear_in_the_weights_and_zero_is_nothing(transformer, tmp_path):
    pairs = random_pairs(NANO)
    path = write(tmp_path / "one.safetensors", peft_tensors(pairs))
    twice = write(
        tmp_path / "two.safetensors", peft_tensors({m: (2 * a, b) for m, (a, b) in pairs.items()})
    )
    assert torch.equal(applied_output(transformer, path, 2), applied_output(transformer, twice))
    assert torch.equal(applied_output(transformer, path, 0), output(transformer))


# Gone without a trace.


def modules_of(transformer):
    return [(name, id(module)) for name, module in transformer.named_modules()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("placement", ["resident", "model", "sequential", "leaf", "block"])
def test_the_model_is_bit_identical_before_and_after(dtype, placement, tiny_folder, lora):
    pipe = diffusers.CogVideoXPipeline.from_pretrained(tiny_folder, dtype=dtype)
    cpu = torch.device("cpu")
    if placement == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    elif placement == "sequential":
        # What enable_sequential_cpu_offload does, which refuses to do it for a CPU.
        accelerate.cpu_offload(pipe.transformer, cpu)
    elif placement == "leaf":
        pipe.enable_group_offload(onload_device=cpu, offload_type="leaf_level")
    elif placement == "block":
        pipe.enable_group_offload(
            onload_device=cpu, offload_type="block_level", num_blocks_per_group=1
        )
    model = pipe.transformer
    before, modules = output(model), modules_of(model)
    resident = diffusers.CogVideoXTransformer3DModel.from_pretrained(
        tiny_folder / "transformer", dtype=dtype
    )
    expected = applied_output(resident, lora, 3.0)
    # Kernels round differently where memory is aligned differently: not bit for bit.
    limit = {torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    assert (before - expected).abs().max() > 10 * limit
    adapters = Adapters(model, NANO)
    for _ in range(2):
        with adapters.applied(lora, 3.0):
            assert (output(model) - expected).abs().max() <= limit
            pipe.maybe_free_model_hooks()
        assert torch.equal(output(model), before)
        assert modules_of(model) == modules


@pytest.mark.filterwarnings("ignore")
def test_int8_weights_stay_as_they_are(transformer, lora):
    quantization = pytest.importorskip("torchao.quantization")
    full = applied_output(transformer, lora)
    quantization.quantize_(transformer, quantization.Int8WeightOnlyConfig())
    before, modules = output(transformer), modules_of(transformer)
    weight = transformer.transformer_blocks[0].attn1.to_q.weight
    on = applied_output(transformer, lora)
    assert not torch.equal(on, before)
    assert torch.linalg.norm(on - full) < 0.1 * torch.linalg.norm(full)
    assert torch.equal(output(transformer), before)
    assert modules_of(transformer) == modules
    assert transformer.transformer_blocks[0].attn1.to_q.weight is weight


def test_compiled_blocks_see_the_lora_come_and_go(transformer, lora, other_lora):
    settings = [(lora, 1.0), (lora, 0.5), (lora, 2.0), (other_lora, 1.0), (lora, 0.3)]
    before = output(transformer)
    plain = {setting: applied_output(transformer, *setting) for setting in settings}
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    transformer._repeated_blocks = ["CogVideoXBlock"]
    transformer.compile_repeated_blocks(backend=count, fullgraph=True)
    assert torch.equal(output(transformer), before)
    compiled = [len(graphs)]
    for setting in settings:
        assert torch.equal(applied_output(transformer, *setting), plain[setting])
        assert torch.equal(output(transformer), before)
        compiled.append(len(graphs))
    torch.compiler.reset()
    without, first, half, double, other, again = compiled
    assert 0 < without < first < other
    # Another scale, or a LoRA that was there before, compiles nothing.
    assert (first, other) == (half, again) == (double, again)


@pytest.mark.parametrize("error", [RuntimeError, CancelationException, KeyboardInterrupt])
def test_a_failing_request_leaves_nothing_behind(error, transformer, lora):
    before, modules = output(transformer), modules_of(transformer)
    adapters = Adapters(transformer, NANO)
    inside = None

    def request():
        nonlocal inside
        with adapters.applied(lora, 1.0):
            inside = modules_of(transformer)
            raise error

    with pytest.raises(error):
        request()
    assert inside not in (None, modules)
    assert modules_of(transformer) == modules
    assert torch.equal(output(transformer), before)


def test_wherever_a_cancellation_strikes_the_next_request_starts_clean(transformer, tmp_path):
    """Cog raises it between any two bytecodes: also while a LoRA is put in or taken out."""
    pairs = random_pairs(NANO, attention_modules(1))
    lora = write(tmp_path / "lora.safetensors", peft_tensors(pairs))
    before, modules = output(transformer), modules_of(transformer)
    adapters = Adapters(transformer, NANO)

    def request():
        with adapters.applied(lora, 1.0):
            pass

    left_behind = 0
    for number in itertools.count():
        if not interrupted_at_line(number, request, "lora/adapters.py"):
            break
        left_behind += modules_of(transformer) != modules
        with adapters.applied(None, 1.0):
            assert modules_of(transformer) == modules
    assert number > 20
    assert left_behind > 0, "no cancellation struck while the LoRA was taken out"
    assert torch.equal(output(transformer), before)


def test_a_refused_file_changes_nothing(transformer, tmp_path):
    modules = modules_of(transformer)
    (tmp_path / "no.safetensors").write_bytes(b"no")
    adapters = Adapters(transformer, NANO)
    for scale in (1.0, 0.0):
        with pytest.raises(UserError), adapters.applied(tmp_path / "no.safetensors", scale):
            pytest.fail("the block must not run")
    assert modules_of(transformer) == modules


def live_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_many_swaps_keep_nothing(transformer, lora, other_lora):
    adapters = Adapters(transformer, NANO)

    def swap():
        for path in (lora, other_lora, None):
            with adapters.applied(path, 1.0):
                output(transformer)

    swap()
    before, tensors = output(transformer), live_tensors()
    for _ in range(10):
        swap()
    assert live_tensors() == tensors
    assert torch.equal(output(transformer), before)


def test_the_same_file_is_read_once_and_a_changed_one_again(transformer, lora, other_lora):
    adapters = Adapters(transformer, NANO)
    with adapters.applied(lora, 1.0):
        first = output(transformer)
    content, state = bytearray(lora.read_bytes()), lora.stat()
    content[-2:] = b"\0\0"
    lora.write_bytes(content)
    os.utime(lora, ns=(state.st_atime_ns, state.st_mtime_ns))
    with adapters.applied(lora, 1.0):
        assert torch.equal(output(transformer), first)
    os.utime(lora, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    with adapters.applied(lora, 1.0):
        assert not torch.equal(output(transformer), first)


def test_the_log_says_what_is_applied_and_what_was_assumed(transformer, lora, other_lora, capsys):
    applied_output(transformer, other_lora, 0.5)
    said = capsys.readouterr().out
    assert said.startswith("LoRA: 2 modules, rank 3, PEFT names, scale 0.5. It does not record")
    assert "alpha = rank is assumed" in said
    assert said.count("\n") == 1
    with Adapters(transformer, NANO).applied(None, 1.0):
        assert capsys.readouterr().out == ""


def test_the_matrices_follow_the_input_to_its_device(transformer):
    pairs = random_pairs(NANO, ["proj_out"])
    layer = LoraLayer(transformer.proj_out.to("meta"), LoraPair(*pairs["proj_out"], 1.0), 1.0)
    out = layer(torch.zeros(2, 128, device="meta", dtype=torch.float32))
    assert out.device.type == "meta"
    assert layer.a.device.type == layer.b.device.type == "meta"
    assert pairs["proj_out"][0].device.type == "cpu"
