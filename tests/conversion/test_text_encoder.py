import json

import pytest
import torch
from transformers import T5EncoderModel, T5Tokenizer

from conversion.nano_text_encoder import WORDS
from conversion.text_encoder import find_text_encoder, read_text_encoder, write_text_encoder
from tests.conversion.random_checkpoint import write_nano_text_encoder
from weights.errors import OperationError, UserError
from weights.variants import VARIANTS


@pytest.fixture
def t5(tmp_path):
    write_nano_text_encoder(tmp_path / "t5", VARIANTS["nano"], torch.float32)
    return tmp_path / "t5"


def copied(folder, target):
    target.mkdir()
    return write_text_encoder(read_text_encoder(folder, 64), target)


def test_sats_layout_becomes_two_folders_with_both_tokenizer_files(t5, tmp_path):
    files = copied(t5, tmp_path / "out")
    assert {"tokenizer/spiece.model", "tokenizer/tokenizer.json"} <= set(files)
    assert {"text_encoder/config.json", "text_encoder/model.safetensors"} <= set(files)
    T5EncoderModel.from_pretrained(tmp_path / "out" / "text_encoder")


def test_the_tokenizer_knows_its_words_and_spells_the_rest(t5, tmp_path):
    copied(t5, tmp_path / "out")
    tokenizer = T5Tokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    assert tokenizer.tokenize("a red circle") == ["▁a", "▁red", "▁circle"]
    assert tokenizer.tokenize("panda")[1:] == list("panda")
    assert tokenizer("red").input_ids[-1] == tokenizer.eos_token_id == 1
    assert all(len(tokenizer.tokenize(word)) == 1 for word in WORDS)


def test_spiece_model_is_one_that_sentencepiece_reads(t5):
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(t5 / "spiece.model"))
    assert processor.encode("a red circle", out_type=str) == ["▁a", "▁red", "▁circle"]
    assert (processor.pad_id(), processor.eos_id(), processor.unk_id()) == (0, 1, 2)


def test_a_diffusers_pair_is_copied_as_it_is(t5, tmp_path):
    files = copied(t5, tmp_path / "out")
    again = copied(tmp_path / "out", tmp_path / "again")
    assert files == again
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_every_shard_of_the_index_is_needed(t5):
    (t5 / "model.safetensors").rename(t5 / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (t5 / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(UserError, match=r"no file model-00002-of-00002\.safetensors"):
        read_text_encoder(t5, 64)


def test_an_index_cannot_name_files_elsewhere(t5):
    index = {"weight_map": {"a": "../../secret"}}
    (t5 / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="secret"):
        read_text_encoder(t5, 64)


def test_another_width_is_refused(t5):
    with pytest.raises(UserError, match="width 64"):
        read_text_encoder(t5, 4096)


def test_a_missing_tokenizer_is_named(t5):
    (t5 / "spiece.model").unlink()
    with pytest.raises(UserError, match=r"neither spiece\.model nor tokenizer\.json"):
        read_text_encoder(t5, 64)


def test_pickled_weights_are_not_taken(t5):
    (t5 / "model.safetensors").rename(t5 / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        read_text_encoder(t5, 64)


def test_sats_usual_folder_is_found(tmp_path):
    assert find_text_encoder(tmp_path, None, None) is None
    (tmp_path / "t5-v1_1-xxl").mkdir()
    assert find_text_encoder(tmp_path, None, None) == tmp_path / "t5-v1_1-xxl"


def test_a_given_folder_must_be_there(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        find_text_encoder(tmp_path, str(tmp_path / "absent"), None)


def test_a_hub_id_is_downloaded(tmp_path, monkeypatch):
    """The hub is stood in for: no model can be downloaded in a test."""
    asked = {}

    def snapshot_download(repository, allow_patterns):
        asked.update(repository=repository, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert find_text_encoder(tmp_path, "zai-org/CogVideoX-2b", None) == tmp_path
    assert asked["repository"] == "zai-org/CogVideoX-2b"
    assert "text_encoder/*" in asked["patterns"]


def test_a_hub_that_cannot_be_reached_is_a_clear_error(tmp_path, monkeypatch):
    def snapshot_download(repository, allow_patterns):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(OperationError, match=r"cannot be had from the hub \(no network\)"):
        find_text_encoder(tmp_path, "google/t5-v1_1-xxl", None)


def test_weights_are_linked_and_the_source_stays_as_it_is(t5, tmp_path):
    before = {path.name: path.read_bytes() for path in t5.iterdir()}
    copied(t5, tmp_path / "out")
    linked = tmp_path / "out" / "text_encoder" / "model.safetensors"
    assert linked.samefile(t5 / "model.safetensors")
    assert {path.name: path.read_bytes() for path in t5.iterdir()} == before


def test_across_file_systems_it_is_copied(t5, tmp_path, monkeypatch):
    def link(*_):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr("os.link", link)
    copied(t5, tmp_path / "out")
    copy = tmp_path / "out" / "text_encoder" / "model.safetensors"
    assert copy.read_bytes() == (t5 / "model.safetensors").read_bytes()
    assert not copy.samefile(t5 / "model.safetensors")


def test_a_tokenizer_with_configs_is_not_altered_through_its_links(t5, tmp_path):
    (t5 / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    copied(t5, tmp_path / "out")
    assert (t5 / "tokenizer_config.json").read_text() == '{"model_max_length": 77}'
    assert (tmp_path / "out" / "tokenizer" / "tokenizer.json").is_file()
