"""The card holds what it is told, its commands are right, and no text breaks out of its place."""

import argparse
import ast
import re
import shlex
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cli import predict
from training.finetuning.markdown_text import as_markdown, one_line
from training.finetuning.model_card import CardFacts, ValidationClip, model_card
from weights.variants import VARIANTS

FACTS = CardFacts(
    title="Zigzag",
    result="zigzag.safetensors",
    full=False,
    variant=VARIANTS["cogvideox-5b"],
    base="checkpoints/my-5b",
    settings={
        "rank": 128,
        "alpha": 1.0,
        "targets": ("to_q", "to_k"),
        "learning_rate": 1e-3,
        "checkpointing": True,
        "validation_prompts": (),
        "note": None,
    },
    clips=64,
    frames=49,
    width=720,
    height=480,
    fps=8,
    trigger_prompts=("a red circle moving zigzag", "a zigzag"),
    final_loss=0.123456,
    minutes=9.44,
    machine="1 × NVIDIA H100",
    validation=(
        ValidationClip(prompt="a blue one", path=PurePosixPath("validation/500-0.mp4")),
        ValidationClip(prompt="a green one", path=PurePosixPath("validation/500-1.mp4")),
    ),
)
FULL = replace(FACTS, full=True, result="zigzag-5b")
CASES = [
    replace(facts, variant=variant) for facts in (FACTS, FULL) for variant in VARIANTS.values()
]
HOSTILE = (
    "---\nlicense: mit\n---\n# Mine",
    "x\n```\n<script>alert(1)</script>\n```sh\nrm -rf ~",
    "a | b |\n|---|---|\n| c",
    "'; rm -rf ~; echo '",
    '"); import os; os.system("rm -rf ~") #',
    "$(rm -rf ~) `rm -rf ~` \\",
    "[click](javascript:alert(1)) ![x](https://evil.example/track.png)",
    "<img src=x onerror=alert(1)> &lt; <!--",
    "{title} %s {0} {{",
    "key: [unclosed, 'quote",
    "!!python/object/apply:os.system ['id']",
    "\u202egnp.exe\u2028\x85\x1b[31m\ud800\x00",
    "",
)


def parts(card):
    """The front matter, the body, and the two blocks of code."""
    _, front, body = re.split(r"^---$\n?", card, maxsplit=2, flags=re.MULTILINE)
    blocks = re.findall(r"^(`{3,})(\w+)\n(.*?)\n\1$", body, flags=re.MULTILINE | re.DOTALL)
    assert [language for _, language, _ in blocks] == ["sh", "python"]
    return yaml.safe_load(front), body, blocks[0][2], blocks[1][2]


def commands(shell):
    return [shlex.split(line) for line in shell.replace("\\\n", "").splitlines()]


def calls(python):
    """Every call in the code by the end of its name; raises SyntaxError where it is none."""
    return {
        ast.unparse(node.func).rsplit(".", 1)[-1]: node
        for node in ast.walk(ast.parse(python))
        if isinstance(node, ast.Call)
    }


def keywords(call):
    return {word.arg: word.value for word in call.keywords}


def test_it_tells_what_was_trained():
    _, body, _, _ = parts(model_card(FACTS))
    text = body.replace("\\", "")
    for expected in (
        "# Zigzag",
        "A LoRA of `cogvideox-5b` (text-to-video)",
        "from the weights checkpoints/my-5b.",
        "The file is zigzag.safetensors; at scale 1.0 it acts as it was trained.",
        "- a red circle moving zigzag\n- a zigzag\n",
        "64 clips of 49 frames, 720×480 at 8 fps. Final loss 0.1235.",
        "9.4 minutes on 1 × NVIDIA H100.",
        "| rank | 128 |",
        "| alpha | 1 |",
        "| targets | to_q, to_k |",
        "| learning_rate | 0.001 |",
        "| checkpointing | yes |",
        "| validation_prompts | none |",
        "| note | None |",
        "[CogVideoX License](https://huggingface.co/zai-org/CogVideoX-5b/blob/main/LICENSE)",
    ):
        assert expected in text


def test_what_there_is_not_is_not_spoken_of():
    bare = replace(FACTS, trigger_prompts=(), validation=())
    front, body, _, _ = parts(model_card(bare))
    assert "Prompts that it was trained for" not in body
    assert "Validation clips" not in body
    assert not {"instance_prompt", "widget"} & front.keys()


@pytest.mark.parametrize("facts", CASES, ids=lambda facts: f"{facts.variant.name}-{facts.full}")
def test_the_front_matter_is_what_hugging_face_reads(facts):
    front, _, _, _ = parts(model_card(facts))
    variant = facts.variant
    assert front["library_name"] == "diffusers"
    assert front["pipeline_tag"] in ("text-to-video", "image-to-video")
    assert (front["pipeline_tag"] == "image-to-video") == (variant.task == "i2v")
    assert ("lora" in front["tags"]) == (not facts.full)
    assert front["instance_prompt"] == "a red circle moving zigzag"
    assert (front["license"] == "apache-2.0") == variant.licence.startswith("Apache-2.0")
    assert ("license_link" in front) == (variant.licence == "CogVideoX License")
    if variant.name.startswith("nano"):
        assert "base_model" not in front
    else:
        assert front["base_model"].lower() == f"zai-org/{variant.name}"
        assert front["base_model_relation"] == ("finetune" if facts.full else "adapter")
    assert front["widget"][1] == {"text": "a green one", "output": {"url": "validation/500-1.mp4"}}


@pytest.mark.parametrize("facts", CASES, ids=lambda facts: f"{facts.variant.name}-{facts.full}")
def test_the_commands_are_ours(facts):
    """`cogvideox predict` takes the arguments as they stand in the card."""
    first, *others = commands(parts(model_card(facts))[2])
    if not facts.full:
        # Without it, our server reads no file of its machine.
        assert first.pop(0) == "COGVIDEOX_LORA_PATHS=$PWD"
    assert first[:2] == ["cogvideox", "predict"]
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    options = parser.parse_args(first[2:])
    assert options.task == facts.variant.task
    assert options.weights == ("./zigzag-5b" if facts.full else "checkpoints/my-5b")
    inputs = dict(pair.split("=", 1) for pair in options.input)
    assert inputs.pop("prompt") == "a red circle moving zigzag"
    assert inputs.pop("image", None) == ("@first.png" if facts.variant.task == "i2v" else None)
    assert inputs == ({} if facts.full else {"lora": "$PWD/zigzag.safetensors"})
    packing = [["cogvideox", "pack", "./zigzag-5b", "./zigzag-5b.tar"]]
    assert others == (packing if facts.full else [])


@pytest.mark.parametrize("facts", CASES, ids=lambda facts: f"{facts.variant.name}-{facts.full}")
def test_the_code_is_for_diffusers(facts):
    import diffusers

    code = calls(parts(model_card(facts))[3])
    variant = facts.variant
    pipeline = ast.unparse(code["from_pretrained"].func).split(".")[0]
    assert hasattr(diffusers, pipeline)
    assert ("ImageToVideo" in pipeline) == (variant.task == "i2v")
    source = ast.literal_eval(code["from_pretrained"].args[0])
    if facts.full:
        assert source == "zigzag-5b"
        assert "load_lora_weights" not in code
    else:
        assert source.lower().endswith(f"/{variant.name}")
        assert ast.literal_eval(code["load_lora_weights"].args[0]) == "zigzag.safetensors"
    arguments = keywords(code["pipe"])
    assert ("image" in arguments) == (variant.task == "i2v")
    accepted = getattr(diffusers, pipeline).__call__.__wrapped__.__code__.co_varnames
    assert arguments.keys() <= set(accepted)
    assert ast.literal_eval(arguments["max_sequence_length"]) == variant.text_tokens
    assert ast.literal_eval(arguments["num_frames"]) == 49
    dtype = keywords(code["from_pretrained"])["dtype"]
    assert ast.unparse(dtype) == f"torch.{variant.dtype}"


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(), max_size=30), st.booleans())
@example(HOSTILE[0], True)
@example(HOSTILE[1], False)
def test_no_text_leaves_its_place(text, full):
    check_no_text_leaves_its_place(text, full)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("full", [False, True])
def test_no_hostile_text_leaves_its_place(text, full):
    check_no_text_leaves_its_place(text, full)


def check_no_text_leaves_its_place(text, full):
    def facts(word):
        return replace(
            FULL if full else FACTS,
            title=word,
            base=word,
            result=word,
            settings={"validation_prompts": (word, word), word: word},
            trigger_prompts=(word, word),
            machine=word,
            validation=(ValidationClip(prompt=word, path=PurePosixPath("validation/1.mp4")),),
        )

    card = model_card(facts(text))
    line, shown = one_line(text), as_markdown(text)
    front, body, shell, python = parts(card)
    assert card.encode("utf-8").count(b"\n") == model_card(facts("x")).count("\n")
    assert front["instance_prompt"] == front["widget"][0]["text"] == line
    assert front.keys() == parts(model_card(FULL if full else FACTS))[0].keys()
    assert f"\n# {shown}\n" in body
    assert body.count(f"\n- {shown}") == 2
    both = as_markdown(f"{text}, {text}")
    assert f"| validation\\_prompts | {both} |\n| {shown} | {shown} |\n" in body
    assert f"on {shown}.\n" in body
    assert f"1.mp4): {shown}\n" in body
    (command, *_) = commands(shell)
    assert command[command.index("-i") + 1] == f"prompt={line}"
    assert command[command.index("--weights") + 1] == (f"./{line}" if full else line)
    if not full:
        assert f"lora=$PWD/{line}" in command
    code = calls(python)
    assert ast.literal_eval(keywords(code["pipe"])["prompt"]) == line
    loaded = code["from_pretrained"] if full else code["load_lora_weights"]
    assert ast.literal_eval(loaded.args[0]) == line
    assert code.keys() <= {"from_pretrained", "load_lora_weights", "enable_model_cpu_offload"} | {
        "pipe",
        "export_to_video",
    }


def test_paths_of_clips_are_addresses():
    odd = PurePosixPath('validation/a b"><script>:#?%\udcff.mp4')
    card = model_card(replace(FACTS, validation=(ValidationClip(prompt="x", path=odd),)))
    address = "validation/a%20b%22%3E%3Cscript%3E%3A%23%3F%25%FF.mp4"
    assert f'<video src="{address}" controls' in card
    assert f"]({address})" in card
    assert parts(card)[0]["widget"][0]["output"]["url"] == address
    assert "<script" not in card.replace("\\<", "")
    for outside in ("/etc/passwd", "../x.mp4", "a/../../x.mp4"):
        clip = ValidationClip(prompt="x", path=PurePosixPath(outside))
        with pytest.raises(AssertionError):
            model_card(replace(FACTS, validation=(clip,)))
