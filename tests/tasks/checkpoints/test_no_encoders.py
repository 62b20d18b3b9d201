"""Folders that are no text encoder, or not all of one: each is one message that says what it is and what to do."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from encoder_folders import encoder_folder
from transformers import AutoConfig, AutoModel

from tasks.checkpoints.inputs import find_evaluation_inputs
from tasks.errors import UserError
from tasks.store.home import Home

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
IMAGES = {**SIZES, "image_size": 32, "patch_size": 16}
SEQ2SEQ = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 440449768\n"


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return encoder_folder("bert", tmp_path / "bert")


def refusal(folder: Path, tmp_path: Path) -> str:
    """The one message of an evaluation of a folder, which leaves nothing behind."""
    home = Home(tmp_path / "home")
    with pytest.raises(UserError) as refused:
        find_evaluation_inputs(str(folder), None, home, None)
    assert not home.root.exists()
    message = str(refused.value)
    assert "\n" not in message and "fix: " in message
    return message


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "gpt2": ({"n_embd": 32, "n_layer": 1, "n_head": 2}, "gpt2 is a decoder, made to generate text"),
    "llama": (SIZES, "llama is a decoder, made to generate text"),
    "bart": (SEQ2SEQ, "bart is an encoder-decoder"),
    "t5": ({"d_model": 32, "d_ff": 32, "num_layers": 1, "num_heads": 2}, "t5 is an encoder-decoder"),
    "clip": ({"text_config": SIZES, "vision_config": IMAGES}, "clip is no masked language model of text"),
    "clip_text_model": (SIZES, "clip_text_model is no masked language model of text"),
    "vit": (IMAGES, "vit is no masked language model of text"),
    "dpr": (SIZES, "dpr is no masked language model of text"),
    "fnet": ({**SIZES, "type_vocab_size": 2}, "a fnet reads padding as text"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_model_that_is_no_text_encoder_is_refused(kind: str, bert: Path, tmp_path: Path) -> None:
    """Saved by transformers itself, with a tokenizer beside it."""
    settings, says = OTHERS[kind]
    config = AutoConfig.for_model(kind, **settings, **({} if kind in ("clip", "vit") else {"vocab_size": 170}))
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
    model = transformers.CLIPTextModel(config) if kind == "clip_text_model" else AutoModel.from_config(config)
    model.save_pretrained(tmp_path / kind)
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(bert / name, tmp_path / kind / name)
    assert says in refusal(tmp_path / kind, tmp_path)


def test_folders_around_an_encoder_name_the_one_within(bert: Path, tmp_path: Path) -> None:
    """sentence-transformers' older layout, and the output folder of a Trainer."""
    outer = tmp_path / "sentences"
    shutil.copytree(bert, outer / "0_Transformer")
    (outer / "1_Pooling").mkdir()
    (outer / "1_Pooling" / "config.json").write_text("{}")
    (outer / "modules.json").write_text('[{"idx": 0, "path": "0_Transformer"}, {"idx": 1, "path": "1_Pooling"}]')
    assert refusal(outer, tmp_path).endswith("it has no config.json; fix: name a folder within it: 0_Transformer")
    (outer / "config.json").write_text('{"__version__": "0.3.0"}')
    assert refusal(outer, tmp_path).endswith("sentence-transformers; fix: name a folder within it: 0_Transformer")
    found, _ = find_evaluation_inputs(str(outer / "0_Transformer"), None, Home(tmp_path / "home"), None)
    assert (found.family, found.variant) == ("plain", "bert")
    for step in (500, 1000):
        shutil.copytree(bert, tmp_path / "output" / f"checkpoint-{step}")
    assert refusal(tmp_path / "output", tmp_path).endswith("within it: checkpoint-1000, checkpoint-500")


FORMATS: dict[str, tuple[list[str], str]] = {
    "an adapter": (
        ["adapter_config.json", "adapter_model.safetensors"],
        "adapter_config.json (an adapter, not a whole",
    ),
    "an adapter and its model's config": (["adapter_config.json", "config.json"], "(an adapter, not a whole model)"),
    "GGUF": (["model-q4.gguf"], "only model-q4.gguf (quantized); fix: save the whole model as safetensors"),
    "GGUF and a config": (["model-q4.gguf", "config.json"], "only model-q4.gguf (quantized)"),
    "ONNX": (["model.onnx"], "only model.onnx (of ONNX)"),
    "ONNX in its folder": (["config.json", "onnx/model.onnx"], "only model.onnx (of ONNX)"),
    "OpenVINO": (["config.json", "openvino_model.xml", "openvino_model.bin"], "openvino_model.bin (of OpenVINO)"),
    "TensorFlow 1": (["bert_config.json", "bert_model.ckpt.index"], "bert_model.ckpt.index (TensorFlow's or"),
    "TensorFlow 2": (["config.json", "tf_model.h5"], "only tf_model.h5 (TensorFlow's)"),
    "Flax": (["config.json", "flax_model.msgpack"], "only flax_model.msgpack (Flax's)"),
    "a pickle of another name": (["config.json", "model.pth"], "only model.pth (of PyTorch alone)"),
    "shards without an index": (["config.json", "model-00001-of-00002.safetensors"], "(a shard without its index)"),
    "nothing": ([], "it has no config.json, it is empty; fix: name a finished checkpoint's folder"),
    "a tokenizer": (["vocab.txt"], "it has no config.json; fix: name a finished checkpoint's folder"),
}


@pytest.mark.parametrize("case", FORMATS)
def test_weights_in_another_format_are_named(case: str, bert: Path, tmp_path: Path) -> None:
    names, says = FORMATS[case]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((bert / name).read_bytes() if name == "config.json" else b"some bytes")
    assert says in refusal(folder, tmp_path)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "vocab.txt", "tokenizer.json"]
)
def test_a_pointer_of_git_lfs_is_told_from_a_damaged_file(name: str, bert: Path, tmp_path: Path) -> None:
    """A vocab.txt that is a pointer would be a vocabulary of three tokens."""
    if name == "pytorch_model.bin" or name.endswith("index.json"):
        (bert / "model.safetensors").unlink()
    (bert / name).write_text(POINTER)
    if name == "vocab.txt":
        (bert / "tokenizer.json").unlink()
    message = refusal(bert, tmp_path)
    assert f"{bert / name}: is a pointer of git-lfs" in message and "fix: `git lfs pull`" in message


def test_a_shard_may_be_a_pointer_and_what_is_not_read_may_be_one(tmp_path: Path) -> None:
    folder = encoder_folder("bert", tmp_path / "shards", sharded=True)
    for unread in ("pytorch_model.bin", "tf_model.h5", "model.onnx"):
        (folder / unread).write_text(POINTER)
    assert find_evaluation_inputs(str(folder), None, Home(tmp_path / "home"), None)[0].variant == "bert"
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_text(POINTER)
    assert f"{shard}: is a pointer of git-lfs" in refusal(folder, tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_cut_short_are_one_message(kept: int, kind: Any, tmp_path: Path) -> None:
    folder = encoder_folder("bert", tmp_path / "cut", format=kind)
    path = folder / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin")
    path.write_bytes(path.read_bytes()[:kept])
    message = refusal(folder, tmp_path)
    assert path.name in message and "corrupt: " in message and message.endswith("again")


@pytest.mark.parametrize(
    ("kind", "fix"),
    [
        (None, "state it in config.json"),
        (["bert"], "state it in config.json"),
        ("new", "state it in config.json"),
        ("BERT", "did you mean bert?"),
        ("xlm_roberta", "did you mean xlm-roberta?"),
        ("deberta_v2", "did you mean deberta-v2?"),
    ],
)
def test_a_model_type_that_transformers_does_not_know_names_the_nearest(
    kind: Any, fix: str, bert: Path, tmp_path: Path
) -> None:
    config = json.loads((bert / "config.json").read_text()) | {"model_type": kind}
    (bert / "config.json").write_text(json.dumps(config))
    assert refusal(bert, tmp_path).endswith(f"or a model_type of transformers; fix: {fix}")
