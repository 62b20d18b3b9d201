"""Checkpoints that are damaged, harmful or of no use: refused before anything is allocated or run."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_input import assert_refused
from bad_input import model as model
from bad_input import no_work_begins as no_work_begins
from bad_input import place as place
from safetensors.torch import load_file, save_file

from tasks.store.files import write_json


def change_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        raw = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in raw.items() if value is not Ellipsis}))

    return change


def change_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return changed


def change_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        text = json.dumps(change(header) or header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return changed


def first_tensor(header: dict[str, Any]) -> dict[str, Any]:
    return next(facts for name, facts in header.items() if name != "__metadata__")


def write_bytes(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_bytes(content))


def void(_: object) -> None:
    return None


class Harmful:
    """A pickle that would run code where it is read without care."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


def as_pickle(value: Any, *, bare: bool = False) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        path = folder / "pytorch_model.bin"
        if bare:
            path.write_bytes(pickle.dumps(value))
        else:
            torch.save(value(tensors) if callable(value) else value, path)

    return change


def packed_pickle(folder: Path) -> None:
    """An archive whose tensors are a thousand times its size."""
    as_pickle({"a": torch.zeros(3_000_000)})(folder)
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        parts = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 100_000


def manifest(files: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        write_json(folder / "manifest.json", files)

    return change


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 53000\n"
CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "a pointer of git-lfs": (write_bytes("model.safetensors", POINTER), "git lfs pull"),
    "a tokenizer that is a pointer": (write_bytes("tokenizer.json", POINTER), "git lfs pull"),
    "an adapter beside it": (write_bytes("adapter_config.json", b"{}"), "adapter"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
    "weights are a folder": (
        lambda folder: ((folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir()),
        "has no",
    ),
    "empty config": (write_bytes("config.json", b""), "JSON"),
    "config is a list": (write_bytes("config.json", b"[]"), "JSON object"),
    "config is binary": (write_bytes("config.json", bytes(range(256))), "JSON"),
    "config nested without end": (write_bytes("config.json", b"[" * 200_000), "JSON"),
    "config of another kind": (change_config(model_type="toaster"), "model_type"),
    "config without a kind": (change_config(model_type=...), "model_type"),
    "kind is a list": (change_config(model_type=["bert"]), "model_type"),
    "kind is a mapping": (change_config(model_type={"a": 1}), "model_type"),
    "config of a plain encoder": (change_config(model_type="bert", vocab_size=100), "weights are missing (197)"),
    "config of earlier code": (change_config(model_type="concept_encoder"), "corrupt"),
    "unknown variant": (change_config(variant="perceiver"), "variant"),
    "variant is a number": (change_config(variant=7), "variant"),
    "unknown architecture": (change_config(architectures=["os.system"]), "architecture"),
    "architecture is a number": (change_config(architectures=[7]), "architecture"),
    "unknown decoder": (change_config(decoder_type="nothing"), "config.json"),
    "width is a word": (change_config(hidden_size="wide"), "hidden_size"),
    "width is a fraction": (change_config(hidden_size=16.5), "hidden_size"),
    "width is a list": (change_config(hidden_size=[16]), "hidden_size"),
    "width is yes": (change_config(hidden_size=True), "hidden_size"),
    "width is 0": (change_config(hidden_size=0), "hidden_size"),
    "width is negative": (change_config(hidden_size=-16), "hidden_size"),
    "width of terabytes": (change_config(hidden_size=10**12), "hidden_size"),
    "width of a hundred gigabytes": (change_config(hidden_size=65_536, token_embedding_dim=65_536), "shape"),
    "width of 4,000 digits": (change_config(hidden_size=10**4000), "hidden_size"),
    "no heads": (change_config(num_attention_heads=0), "num_attention_heads"),
    "heads that do not divide": (change_config(num_attention_heads=3), "divide"),
    "a billion layers": (change_config(num_layers=10**9), "num_layers"),
    "a thousand layers": (change_config(num_layers=1000), "missing"),
    "a billion concepts": (change_config(num_concepts=10**9), "num_concepts"),
    "other concepts": (change_config(num_concepts=5), "shape"),
    "a billion positions": (change_config(max_sequence_length=10**9), "max_sequence_length"),
    "other positions": (change_config(max_sequence_length=64), "shape"),
    "a billion tokens": (change_config(vocab_size=10**9), "vocab_size"),
    "ten million tokens": (change_config(vocab_size=10**7), "shape"),
    "a billion labels": (change_config(num_labels=10**9), "num_labels"),
    "dropout is a word": (change_config(hidden_dropout_prob="some"), "config.json"),
    "empty weights": (write_bytes("model.safetensors", b""), "header too small"),
    "weights of text": (write_bytes("model.safetensors", b"not weights at all"), "corrupt"),
    "header longer than the file": (write_bytes("model.safetensors", struct.pack("<Q", 10**15) + b"{}"), "corrupt"),
    "header of all bits": (write_bytes("model.safetensors", b"\xff" * 64), "corrupt"),
    "header is no JSON": (write_bytes("model.safetensors", struct.pack("<Q", 4) + b"{{{{"), "corrupt"),
    "header is a list": (write_bytes("model.safetensors", struct.pack("<Q", 2) + b"[]"), "corrupt"),
    "header nested without end": (
        write_bytes("model.safetensors", struct.pack("<Q", 100_000) + b"[" * 100_000),
        "corrupt",
    ),
    "no tensors": (write_bytes("model.safetensors", struct.pack("<Q", 2) + b"{}"), "missing"),
    "cut by a byte": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1]),
        "truncated",
    ),
    "a byte too long": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + b"x"),
        "not fully covered",
    ),
    "shape of terabytes": (change_header(lambda h: first_tensor(h).update(shape=[2**40, 2**20])), "overflow"),
    "negative shape": (change_header(lambda h: first_tensor(h).update(shape=[-1, 4])), "expected usize"),
    "shape of words": (change_header(lambda h: first_tensor(h).update(shape=["a"])), "expected usize"),
    "shape is missing": (change_header(lambda h: void(first_tensor(h).pop("shape"))), "missing field `shape`"),
    "overlapping tensors": (change_header(lambda h: first_tensor(h).update(data_offsets=[0, 8])), "corrupt"),
    "offsets backwards": (change_header(lambda h: first_tensor(h).update(data_offsets=[8, 0])), "corrupt"),
    "offsets of petabytes": (change_header(lambda h: first_tensor(h).update(data_offsets=[0, 2**55])), "corrupt"),
    "odd type": (change_header(lambda h: first_tensor(h).update(dtype="F999")), "model.safetensors"),
    "a tensor is missing": (change_tensors(lambda t: void(t.pop("encoder.concept_embedding.weight"))), "missing"),
    "a tensor too many": (change_tensors(lambda t: t.update(extra=torch.zeros(3))), "without a place"),
    "a tensor of whole numbers": (
        change_tensors(lambda t: t.update({n: x.to(torch.int64) for n, x in t.items() if "concept_emb" in n})),
        "type",
    ),
    "a tensor of another shape": (
        change_tensors(lambda t: t.update({n: torch.zeros(3, 3) for n in t if "concept_embedding" in n})),
        "shape",
    ),
    "pickle with code": (as_pickle(lambda _: {"a": Harmful()}), "cannot be read"),
    "bare pickle with code": (as_pickle(Harmful(), bare=True), "cannot be read"),
    "pickle of a list": (as_pickle([1, 2]), "named tensors"),
    "pickle of a module": (as_pickle(lambda _: torch.nn.Linear(2, 2)), "cannot be read"),
    "pickle of nothing": (as_pickle({}), "missing"),
    "packed pickle": (packed_pickle, "compressed"),
    "stretched pickle": (as_pickle({"a": torch.zeros(1).expand(2**40)}), "claims more"),
    "pickle is text": (
        lambda folder: ((folder / "model.safetensors").unlink(), (folder / "pytorch_model.bin").write_bytes(b"hello")),
        "cannot be read",
    ),
    "manifest is a list": (manifest([]), "manifest"),
    "manifest without files": (manifest({}), "manifest"),
    "manifest of words": (manifest({"files": {"config.json": "fine"}}), "manifest"),
    "manifest of other sizes": (manifest({"files": {"config.json": {"size": 1, "sha256": "0"}}}), "corrupt"),
    "manifest of what is not": (manifest({"files": {"a.json": {"size": 1, "sha256": "0"}}}), "missing"),
    "manifest of the outside": (manifest({"files": {"../../x": {"size": 1, "sha256": "0"}}}), "outside"),
    "manifest of an absolute path": (manifest({"files": {"/etc/passwd": {"size": 1, "sha256": "0"}}}), "outside"),
    "manifest with NUL": (manifest({"files": {"a\x00b": {"size": 1, "sha256": "0"}}}), "missing"),
    "manifest is binary": (write_bytes("manifest.json", b"\xff\xfe"), "manifest"),
    "manifest nested without end": (write_bytes("manifest.json", b"[" * 200_000), "manifest"),
    "tokenizer is empty": (write_bytes("tokenizer.json", b""), "tokenizer"),
    "tokenizer is an object": (write_bytes("tokenizer.json", b"{}"), "tokenizer"),
    "tokenizer is a list": (write_bytes("tokenizer.json", b"[]"), "tokenizer"),
    "tokenizer is binary": (write_bytes("tokenizer.json", bytes(range(256))), "tokenizer"),
    "tokenizer settings are a list": (write_bytes("tokenizer_config.json", b"[]"), "tokenizer"),
    "tokenizer without special tokens": (write_bytes("tokenizer_config.json", b"{}"), "token"),
    "tokenizer is a sentence-piece model": (
        lambda folder: (folder / "tokenizer.json").rename(folder / "spm.model"),
        "tokenizer",
    ),
    "tokenizer of more tokens": (change_config(vocab_size=100), "shape"),
    "experiment is a list": (write_bytes("experiment.json", b"[]"), "experiment"),
    "experiment is empty": (write_bytes("experiment.json", b"{}"), "experiment"),
    "experiment of odd keys": (write_bytes("experiment.json", b'{"spec": {"name": "a", "x": 1}}'), "experiment"),
    "experiment nested without end": (write_bytes("experiment.json", b"[" * 200_000), "experiment"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_bad_checkpoints(
    place: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, says = CHECKPOINTS[case]
    damage(place / "model")
    assert_refused(place, ["evaluate", "model"], says, capsys, monkeypatch)
    assert not (place / "harmed").exists()


@pytest.mark.parametrize("case", ["width of terabytes", "pickle with code", "shape of terabytes", "a billion layers"])
@pytest.mark.parametrize("command", ["checkpoint show", "checkpoint convert", "encode", "analyse", "run"])
def test_every_command_refuses_a_bad_checkpoint(
    place: Path, case: str, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, says = CHECKPOINTS[case]
    damage(place / "model")
    words = {
        "encode": ["encode", "model", "texts.txt", "--output", "o.parquet"],
        "run": ["run", "tiny.yaml", "--set", "training.init_from=model"],
        "checkpoint convert": ["checkpoint", "convert", "model", "new"],
    }.get(command, [*command.split(), "model"])
    assert_refused(place, words, says, capsys, monkeypatch)
    assert not (place / "harmed").exists()


def plain_encoder(folder: Path, **changes: Any) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=280, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder)
    change_config(**changes)(folder)


PLAIN = {
    "a billion layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    "a million positions": ({"max_position_embeddings": 10**6, "hidden_size": 65_536}, "weights"),
    "width is a word": ({"hidden_size": "wide"}, "config.json"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads"),
    "unknown activation": ({"hidden_act": "os.system"}, "config.json"),
    "a billion labels": ({"num_labels": 10**9}, "num_labels"),
    "more layers than its file": ({"num_hidden_layers": 2}, "weights are missing (16): bert.encoder.layer.1"),
    "an encoder-decoder": ({"model_type": "t5"}, "encoder-decoder"),
    "a decoder": ({"model_type": "gpt2"}, "made to generate text"),
    "a causal encoder": ({"is_decoder": True}, "is_decoder"),
    "another family": ({"model_type": "distilbert"}, "architectures names BertModel"),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
    "code of its own": ({"auto_map": {"AutoModel": "evil.Model"}, "model_type": "evil"}, "model_type"),
}


@pytest.mark.parametrize("case", PLAIN)
def test_bad_plain_encoders(
    place: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, says = PLAIN[case]
    for name in ("model.safetensors", "config.json"):
        (place / "model" / name).unlink()
    plain_encoder(place / "model", **changes)
    (place / "model" / "evil.py").write_text("import os\nos.mkdir('harmed')\n")
    assert_refused(place, ["evaluate", "model"], says, capsys, monkeypatch)
    assert not (place / "harmed").exists()
