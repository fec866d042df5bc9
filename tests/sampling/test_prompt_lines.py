"""Prompt files of every format become the same lines; what is wrong is said with its place."""

import csv
import inspect
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.request import validate
from sampling.prompt_lines import PromptLine, parse_text_line, read_prompt_lines
from sampling.request_columns import MAX_CHARACTERS, column_names
from weights.errors import UserError
from weights.variants import VARIANTS

NANO = VARIANTS["nano"]
ALL_FIELDS = {
    "prompt": "a cat",
    "negative_prompt": "a dog",
    "num_frames": 9,
    "width": 64,
    "height": 64,
    "num_inference_steps": 3,
    "guidance_scale": 4.5,
    "dynamic_guidance": True,
    "scheduler": "ddim",
    "seed": 7,
    "fps": 8,
    "lora": "owner/repo",
    "lora_scale": -0.5,
    "speed": "fast",
    "output_format": "gif",
    "output_quality": 50,
}


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet(path: Path, rows: list[dict]) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def table(path: Path, rows: list[dict]) -> Path:
    """`rows` in the format that the suffix of `path` says."""
    if path.suffix == ".parquet":
        return parquet(path, rows)
    if path.suffix == ".jsonl":
        return written(path, "".join(f"{json.dumps(row)}\n" for row in rows))
    text = io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    return written(path, text.getvalue())


def only_line(path: Path, task="t2v") -> PromptLine:
    (line,) = read_prompt_lines(path, task)
    return line


def problem_of(path: Path, task="t2v") -> str:
    problem = only_line(path, task).problem
    assert problem is not None
    assert problem.exit_code == 2
    return str(problem)


every_table = pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])


@pytest.mark.parametrize("task", ["t2v", "i2v"])
def test_the_columns_are_the_inputs_of_the_runner(task):
    runner = pytest.importorskip(f"predict_{task}").Runner
    assert set(column_names(task)) == set(inspect.signature(runner.run).parameters) - {"self"}
    assert set(column_names("i2v")) - {"image"} == set(inspect.signature(validate).parameters) - {
        "variant",
        "image_size",
    }


def test_texts_are_as_long_as_the_runner_takes_them():
    fields = inspect.signature(pytest.importorskip("predict_t2v").Runner.run).parameters
    limits = {name: getattr(field.default, "max_length", None) for name, field in fields.items()}
    assert {name: limit for name, limit in limits.items() if limit is not None} == MAX_CHARACTERS


@every_table
def test_all_fields_come_in_their_types(tmp_path, suffix):
    line = only_line(table(tmp_path / f"prompts{suffix}", [ALL_FIELDS]))
    assert (line.number, line.problem, line.image) == (1, None, None)
    assert line.inputs == ALL_FIELDS
    assert {name: type(value) for name, value in line.inputs.items()} == {
        name: type(value) for name, value in ALL_FIELDS.items()
    }
    validate(NANO, **line.inputs)


@every_table
def test_text_may_stand_for_prompt(tmp_path, suffix):
    path = table(tmp_path / f"prompts{suffix}", [{"text": "a cat"}])
    assert only_line(path).inputs == {"prompt": "a cat"}
    path = table(tmp_path / f"prompts{suffix}", [{"text": "a cat", "prompt": "a cat"}])
    assert only_line(path).inputs == {"prompt": "a cat"}
    path = table(tmp_path / f"prompts{suffix}", [{"text": "a cat", "prompt": "a dog"}])
    assert "'prompt' and 'text' differ" in problem_of(path)


@every_table
def test_blank_cells_are_left_out_and_numbers_go_on(tmp_path, suffix):
    rows = [
        {"prompt": "a", "seed": 1, "num_frames": None},
        {"prompt": "b", "seed": None, "num_frames": 9},
    ]
    lines = read_prompt_lines(table(tmp_path / f"prompts{suffix}", rows), "t2v")
    assert [line.number for line in lines] == [1, 2]
    assert [line.inputs for line in lines] == [
        {"prompt": "a", "seed": 1},
        {"prompt": "b", "num_frames": 9},
    ]


@every_table
def test_whole_numbers_may_be_floats_as_tables_with_blanks_have_them(tmp_path, suffix):
    line = only_line(table(tmp_path / f"prompts{suffix}", [{"prompt": "a", "seed": 2.0}]))
    assert line.inputs == {"prompt": "a", "seed": 2}
    assert type(line.inputs["seed"]) is int


@every_table
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "abc"),
        ("seed", 1.5),
        ("seed", float("inf")),
        ("guidance_scale", "high"),
        ("dynamic_guidance", "maybe"),
        ("num_frames", True),
    ],
)
def test_a_value_of_another_type_is_its_lines_problem(tmp_path, suffix, name, value):
    rows = [{"prompt": "a cat", name: value}]
    line = only_line(table(tmp_path / f"prompts{suffix}", rows))
    unit = "line" if suffix == ".jsonl" else "row"
    assert str(line.problem).startswith(f"{tmp_path}/prompts{suffix}, {unit} 1: {name} is ")
    assert (line.inputs, line.image) == ({"prompt": "a cat"}, None)


@pytest.mark.parametrize("word", ["true", "TRUE", "yes", "1", " Yes "])
def test_truth_in_csv_has_many_words(tmp_path, word):
    path = written(tmp_path / "p.csv", f"prompt,dynamic_guidance\na,{word}\n")
    assert only_line(path).inputs["dynamic_guidance"] is True
    other = {"true": "false", "yes": "no", "1": "0"}[word.strip().lower()]
    path = written(tmp_path / "p.csv", f"prompt,dynamic_guidance\na,{other}\n")
    assert only_line(path).inputs["dynamic_guidance"] is False


@pytest.mark.parametrize("word", ["1_000", "٣", "nan", "inf", "0x10", "1e", "--1", "1,5"])
def test_only_plain_numbers_are_numbers_in_csv(tmp_path, word):
    path = written(tmp_path / "p.csv", f'prompt,lora_scale\na,"{word}"\n')
    assert f"lora_scale is {word!r}. A number is expected." in problem_of(path)


@every_table
@pytest.mark.parametrize("name", ["prompt", "negative_prompt", "lora"])
def test_texts_have_the_apis_limits(tmp_path, suffix, name):
    most = MAX_CHARACTERS[name]
    path = tmp_path / f"p{suffix}"
    fits = {"prompt": "a", name: "x" * most}
    assert only_line(table(path, [fits])).inputs == fits
    problem = problem_of(table(path, [{"prompt": "a", name: "x" * (most + 1)}]))
    assert f"{name} has {most + 1} characters. It may have {most}." in problem


@every_table
@pytest.mark.parametrize(("given", "meant"), [("sed", "seed"), ("Prompts", "prompt")])
def test_an_unknown_column_is_refused_and_the_nearest_named(tmp_path, suffix, given, meant):
    path = table(tmp_path / f"p{suffix}", [{"prompt": "a", given: "1"}])
    with pytest.raises(UserError, match=f"'{given}' is not known.*Should it be {meant}"):
        read_prompt_lines(path, "t2v")


def test_an_unknown_field_of_jsonl_is_refused_with_its_line(tmp_path):
    path = written(tmp_path / "p.jsonl", '{"prompt": "a"}\n\n{"prompt": "b", "stepz": 1}\n')
    with pytest.raises(UserError, match=r"p\.jsonl, line 3: 'stepz' is not known"):
        read_prompt_lines(path, "t2v")


@every_table
def test_images_are_refused_where_the_model_takes_none(tmp_path, suffix):
    path = table(tmp_path / f"p{suffix}", [{"prompt": "a", "image": "a.png"}])
    with pytest.raises(UserError, match="from text alone"):
        read_prompt_lines(path, "t2v")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_missing_column_is_refused(tmp_path, suffix):
    path = table(tmp_path / f"p{suffix}", [{"seed": 1}])
    with pytest.raises(UserError, match="no column 'prompt'"):
        read_prompt_lines(path, "t2v")
    path = table(tmp_path / f"p{suffix}", [{"prompt": "a"}])
    with pytest.raises(UserError, match="no column 'image'"):
        read_prompt_lines(path, "i2v")


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = written(tmp_path / "p.csv", "prompt,seed,seed\na,1,2\n")
    with pytest.raises(UserError, match="'seed' is there twice"):
        read_prompt_lines(path, "t2v")


def test_semicolons_between_columns_are_named(tmp_path):
    path = written(tmp_path / "p.csv", "prompt;seed\na;1\n")
    with pytest.raises(UserError, match="Separate the columns with commas"):
        read_prompt_lines(path, "t2v")


def test_text_is_read_as_sat_reads_it(tmp_path):
    path = written(tmp_path / "p.txt", "  a cat  \n\n\r\na dog@@here\u2028and there")
    lines = read_prompt_lines(path, "t2v")
    assert [(line.number, line.inputs) for line in lines] == [
        (1, {"prompt": "a cat"}),
        (4, {"prompt": "a dog@@here\u2028and there"}),
    ]
    assert lines[1].place == f"{path}, line 4"


def test_text_names_images(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for image in (tmp_path / "a.png", elsewhere / "a.png", elsewhere / "b.png"):
        image.touch()
    path = written(tmp_path / "p.txt", f"x@@a.png\ny @@ b.png\nz@@{tmp_path}/a.png\n")
    lines = read_prompt_lines(path, "i2v")
    assert [line.inputs for line in lines] == [{"prompt": "x"}, {"prompt": "y"}, {"prompt": "z"}]
    assert [line.image for line in lines] == [
        tmp_path / "a.png",
        elsewhere / "b.png",
        tmp_path / "a.png",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a cat", "It has @@ 0 times"),
        ("a@@b@@c.png", "It has @@ 2 times"),
        ("a cat@@", "There is no image"),
        ("@@a.png", "There is no prompt"),
        ("a cat@@b.png", "image 'b.png' is no file"),
        ("a cat@@.", "image '.' is no file"),
        (f"a cat@@{'b' * 300}.png", "is no file"),
        ("a cat@@b\0.png", "is no file"),
        ("a cat@@https://e.com/a.png?token=geheim", "image is a URL"),
        ("a cat@@data:image/png;base64,AAAA", "image is a URL"),
    ],
)
def test_what_is_wrong_with_an_image_is_its_lines_problem(tmp_path, text, words):
    (tmp_path / "a.png").touch()
    path = written(tmp_path / "p.txt", f"fine@@a.png\n{text}\n")
    fine, line = read_prompt_lines(path, "i2v")
    assert fine.problem is None
    assert str(line.problem).startswith(f"{path}, line 2: ")
    assert words in str(line.problem)
    assert "geheim" not in str(line.problem)
    assert line.image is None


@every_table
def test_tables_name_images(tmp_path, suffix):
    (tmp_path / "a.png").touch()
    rows = [{"prompt": "x", "image": "a.png", "image_fit": "pad"}, {"prompt": "y", "image": None}]
    fine, without = read_prompt_lines(table(tmp_path / f"p{suffix}", rows), "i2v")
    assert (fine.image, fine.inputs) == (tmp_path / "a.png", {"prompt": "x", "image_fit": "pad"})
    assert "There is no image" in str(without.problem)
    assert without.inputs == {"prompt": "y"}


def test_typed_lines_are_read_as_those_of_a_file(tmp_path):
    (tmp_path / "a.png").touch()
    line = parse_text_line(" a cat@@a.png \n", 3, tmp_path, "i2v")
    assert line == PromptLine(
        number=3,
        place="Line 3",
        inputs={"prompt": "a cat"},
        image=tmp_path / "a.png",
        problem=None,
    )
    assert parse_text_line(" \n", 3, tmp_path, "t2v") is None
    bad = parse_text_line("a cat", 4, tmp_path, "i2v")
    assert bad is not None
    assert str(bad.problem).startswith("Line 4: It has @@ 0 times")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, mark, suffix):
    content = {".txt": "ä", ".jsonl": '{"prompt": "ä"}', ".csv": "prompt\r\nä\r\n"}[suffix]
    path = written(tmp_path / f"p{suffix}", mark + content.encode())
    assert only_line(path).inputs == {"prompt": "ä"}


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv"])
def test_what_is_not_utf_8_is_refused_with_its_line(tmp_path, suffix):
    path = written(tmp_path / f"p{suffix}", b"prompt\nfine\nk\xe4se\n")
    with pytest.raises(UserError, match=r"line 3: it is not UTF-8"):
        read_prompt_lines(path, "t2v")


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.csv", "p.parquet", "p"])
@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_prompts_is_refused(tmp_path, name, content):
    with pytest.raises(UserError, match=r"is empty|no column 'prompt'|can't be read as Parquet"):
        read_prompt_lines(written(tmp_path / name, content), "t2v")


def test_a_header_alone_is_empty(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        read_prompt_lines(written(tmp_path / "p.csv", "prompt,seed\n"), "t2v")


def test_files_that_can_not_be_read_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt can't be read \(No such file"):
        read_prompt_lines(tmp_path / "none.txt", "t2v")
    with pytest.raises(UserError, match="can't be read"):
        read_prompt_lines(tmp_path, "t2v")


@pytest.mark.parametrize("suffix", [".json", ".tsv", ".YAML"])
def test_formats_whose_lines_are_no_prompts_are_refused(tmp_path, suffix):
    path = written(tmp_path / f"p{suffix}", '[\n{"prompt": "a"}\n]')
    with pytest.raises(UserError, match=r"ends in \."):
        read_prompt_lines(path, "t2v")


@pytest.mark.parametrize(
    "text",
    ["a cat", "[1]", '{"prompt": "a"', '{"prompt": "a", "prompt": "b"}', "[" * 10_000, "9" * 5_000],
)
def test_a_line_that_is_not_a_json_object_is_its_own_problem(tmp_path, text):
    path = written(tmp_path / "p.jsonl", f'{{"prompt": "fine"}}\n{text}\n{{"prompt": "too"}}')
    first, bad, last = read_prompt_lines(path, "t2v")
    assert (first.problem, last.problem) == (None, None)
    assert str(bad.problem).startswith(f"{path}, line 2: It is not a JSON object")
    assert bad.inputs == {}


def test_half_a_character_is_its_lines_problem(tmp_path):
    assert "lone surrogate" in problem_of(written(tmp_path / "p.jsonl", r'{"prompt": "\ud83d"}'))


@pytest.mark.parametrize("fields", [{"seed": 1}, {"prompt": ""}, {"prompt": " "}, {"prompt": 5}])
def test_every_line_needs_a_prompt(tmp_path, fields):
    assert "prompt" in problem_of(table(tmp_path / "p.jsonl", [fields]))


def test_rows_of_csv_are_counted_with_blank_ones_and_not_by_line_breaks(tmp_path):
    path = written(tmp_path / "p.csv", 'prompt,seed\n"a\nb",1\n\n,\nc,2\n')
    lines = read_prompt_lines(path, "t2v")
    assert [(line.number, line.inputs["prompt"]) for line in lines] == [(1, "a\nb"), (4, "c")]
    assert lines[1].place == f"{path}, row 4"


def test_a_row_with_more_cells_than_columns_is_its_own_problem(tmp_path):
    path = written(tmp_path / "p.csv", "prompt,seed\na cat, awake,1\nb,2\n")
    bad, fine = read_prompt_lines(path, "t2v")
    assert "row 1: It has 3 cells. 2 are expected" in str(bad.problem)
    assert fine.inputs == {"prompt": "b", "seed": 2}


@pytest.mark.parametrize("text", ['prompt\n"a"b\n', 'prompt\n"a\n', f"prompt\n{'x' * 200_000}\n"])
def test_what_is_not_csv_is_refused_with_its_row(tmp_path, text):
    with pytest.raises(UserError, match="row 1: it is not CSV"):
        read_prompt_lines(written(tmp_path / "p.csv", text), "t2v")


def test_what_is_not_parquet_is_refused(tmp_path):
    whole = parquet(tmp_path / "p.parquet", [{"prompt": f"{n}"} for n in range(100)]).read_bytes()
    for content in (b"prompt\n", whole[:-9], whole[:4] + b"\xff" * 300 + whole[304:]):
        with pytest.raises(UserError, match="can't be read as Parquet"):
            read_prompt_lines(written(tmp_path / "p.parquet", content), "t2v")


def test_text_in_parquet_that_is_not_utf_8_is_refused(tmp_path):
    import pyarrow
    from pyarrow import parquet

    column = pyarrow.array([b"fine", b"k\xe4se"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"prompt": column}), tmp_path / "p.parquet")
    with pytest.raises(UserError, match="can't be read as Parquet"):
        read_prompt_lines(tmp_path / "p.parquet", "t2v")


def test_the_index_that_pandas_writes_is_no_column(tmp_path):
    rows = [{"prompt": "a", "__index_level_0__": 5}]
    assert only_line(parquet(tmp_path / "p.parquet", rows)).inputs == {"prompt": "a"}


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = parquet(tmp_path / "p.parquet", [{"prompt": "a"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-sample.txt"):
        read_prompt_lines(path, "t2v")


def test_only_parquet_needs_pyarrow(tmp_path):
    written(tmp_path / "p.csv", "prompt\na\n")
    code = (
        "import sys; from pathlib import Path\n"
        "from sampling.prompt_lines import read_prompt_lines\n"
        f"read_prompt_lines(Path({str(tmp_path / 'p.csv')!r}), 't2v')\n"
        "sys.exit(bool({'pyarrow', 'torch', 'obstore'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@settings(deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
            lambda text: text.strip() and "\0" not in text
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_prompt_is_the_same_in_every_table(tmp_path_factory, prompts):
    folder = tmp_path_factory.mktemp("any")
    rows = [{"prompt": prompt} for prompt in prompts]
    for suffix in (".jsonl", ".csv", ".parquet"):
        lines = read_prompt_lines(table(folder / f"p{suffix}", rows), "t2v")
        assert [line.inputs["prompt"] for line in lines] == prompts


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_lines_or_a_user_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("bytes")
    for name in ("p.txt", "p.jsonl", "p.csv", "p.parquet"):
        path = written(folder / name, data if name != "p.csv" else b"prompt,seed\n" + data)
        lines, said = [], ""
        try:
            lines = read_prompt_lines(path, "t2v")
        except UserError as error:
            said = str(error)
        assert all(line.problem or line.inputs["prompt"].strip() for line in lines)
        assert lines or str(path) in said
