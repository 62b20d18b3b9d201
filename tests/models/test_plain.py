"""Plain encoders are loaded strictly: every weight of the encoder comes from the file, in fp32, or loading refuses."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_folders import FAMILIES, encoder_folder
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from models.plain import load_plain_classifier
from models.weight_files import CheckpointError, UnfitError
from models.weights import read_weights

ENCODERS = [name for name in FAMILIES if name != "t5"]
# What of a family's folder finds no place in a classifier: the first part of the names.
HEADS = {
    "bert": {"cls"},
    "roberta": {"lm_head"},
    "distilbert": {"vocab_transform", "vocab_layer_norm", "vocab_projector"},
    "electra": {"discriminator_predictions"},
    "albert": {"predictions"},
    "mpnet": {"lm_head"},
    "deberta-v2": {"cls", "lm_predictions"},
    "modernbert": {"decoder"},
    "xlm-roberta": {"lm_head"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family as the Hub has it; not to be changed."""
    root = tmp_path_factory.mktemp("encoders")

    def folder(family: str) -> Path:
        return root / family if (root / family).is_dir() else encoder_folder(family, root / family)

    return folder


def batch(folder: Path) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask [2, 9] of random tokens, the second text padded."""
    config = json.loads((folder / "config.json").read_text())
    ids = torch.randint(6, min(300, config["vocab_size"]), (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = config["pad_token_id"], 0
    return {"input_ids": ids, "attention_mask": mask}


def states(model: Any, folder: Path) -> torch.Tensor:
    """The states [2, 9, H] that an encoder gives in eval mode."""
    encoder = model.base_model.eval()
    with torch.no_grad():
        return encoder(**batch(folder)).last_hidden_state


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


# --- what is loaded ---


@pytest.mark.parametrize("family", ENCODERS)
def test_every_family_gives_the_states_that_transformers_gives(family: str, folders: Callable[[str], Path]) -> None:
    folder = folders(family)
    model, report = load_plain_classifier(folder, 3)
    own = states(AutoModel.from_pretrained(folder, dtype=torch.float32), folder)
    torch.testing.assert_close(states(model, folder), own, rtol=0, atol=0)
    assert {name.split(".")[0] for name in report.dropped} <= HEADS[family] and report.dropped
    base = f"{model.base_model_prefix}."
    assert all(not name.startswith(base) or ".pooler." in name for name in report.new)
    assert {*report.loaded} | {*report.new} == {*model.state_dict()} and not {*report.loaded} & {*report.new}
    stored = load_file(folder / "model.safetensors")
    assert len(report.loaded) + len(report.dropped) == len(stored)
    assert (report.precision, report.notes) == ("fp32", [])


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("shape", ["sharded", "pickled", "pickled shards", "module.", "student.net.", "compiled"])
def test_however_it_is_stored_the_same_model_is_loaded(
    family: str, shape: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"sharded": "shard" in shape, "format": "bin" if "pickled" in shape else "safetensors"}
    if shape.endswith("."):
        settings["prefix"] = shape
    if shape == "compiled":  # one layer was wrapped by itself
        settings["rename"] = lambda name: name.replace("layer.0.", "layer.0._orig_mod.").replace(".0.", "._orig_mod.0.")
    folder = encoder_folder(family, tmp_path / "other", **settings)
    model, report = load_plain_classifier(folder, 3)
    known, expected = load_plain_classifier(folders(family), 3)
    torch.testing.assert_close(states(model, folder), states(known, folder), rtol=0, atol=0)
    assert (report.loaded, report.new, report.dropped) == (expected.loaded, expected.new, expected.dropped)
    assert [note.split(" from ")[0] for note in report.notes] == {
        "module.": ["removed module."],
        "student.net.": ["removed student.net."],
        "compiled": ["removed _orig_mod."],
    }.get(shape, [])


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_every_parameter_is_fp32_whatever_is_stored(family: str, kind: torch.dtype, tmp_path: Path) -> None:
    folder = encoder_folder(family, tmp_path / "half", dtype=kind)
    name = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}[kind]
    model, report = load_plain_classifier(folder, 2)
    assert (report.precision, report.notes) == (name, [f"stored in {name}, used in fp32"])
    torch.testing.assert_close(
        states(model, folder), states(AutoModel.from_pretrained(folder, dtype=torch.float32), folder), rtol=0, atol=0
    )
    random_one, _ = load_plain_classifier(folder, 2, random_start=True)
    for each in (model, random_one):
        assert {parameter.dtype for parameter in each.parameters()} == {torch.float32}
        loss = each(**batch(folder), labels=torch.tensor([0, 1])).loss
        loss.backward()
        given = [parameter for parameter in each.parameters() if parameter.grad is not None]
        assert loss.dtype == torch.float32 and {parameter.grad.dtype for parameter in given} == {torch.float32}
        assert each.config.dtype == torch.float32
    # A step of 1e-5 is lost in bf16, where 1 and 1.007 are neighbours; here it counts.
    norm = next(parameter for name, parameter in model.named_parameters() if "orm" in name and name.endswith("weight"))
    before = norm.detach().clone()
    torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0).step()
    assert (norm.detach() != before).float().mean() > 0.9


def test_older_names_are_read_and_a_stated_type_changes_nothing(folders: Callable[[str], Path], tmp_path: Path) -> None:
    def older(name: str) -> str:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    folder = encoder_folder("bert", tmp_path / "old", rename=older)
    change_config(folder, torch_dtype="float16", dtype="bfloat16")
    change_weights(folder, lambda w: w.update({"bert.embeddings.position_ids": torch.arange(64).unsqueeze(0)}))
    model, report = load_plain_classifier(folder, 3)
    known, expected = load_plain_classifier(folders("bert"), 3)
    torch.testing.assert_close(states(model, folder), states(known, folder), rtol=0, atol=0)
    dropped = {name.replace("gamma", "weight").replace("beta", "bias") for name in report.dropped}
    assert dropped == {*expected.dropped, "bert.embeddings.position_ids"}
    assert report.loaded == expected.loaded and {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_table_that_the_config_has_switched_off_is_named(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """transformers leaves DeBERTa's absolute positions out without a word where the config says they are relative."""
    folder, name = copied(folders("deberta-v2"), tmp_path / "deberta"), "deberta.embeddings.position_embeddings.weight"
    change_weights(folder, lambda w: w.update({name: torch.zeros(64, 32)}))
    assert name in load_plain_classifier(folder, 2)[1].dropped
    change_weights(folder, lambda w: w.update({f"deberta.encoder.{name}": torch.zeros(64, 32)}))
    with pytest.raises(CheckpointError, match=r"without a place \(1\): deberta\.encoder\.deberta"):
        load_plain_classifier(folder, 2)


def test_a_base_model_without_prefix_is_loaded_whole(folders: Callable[[str], Path], tmp_path: Path) -> None:
    AutoModel.from_pretrained(folders("bert")).save_pretrained(tmp_path / "base")
    model, report = load_plain_classifier(tmp_path / "base", 3)
    assert report.new == ["classifier.bias", "classifier.weight"] and report.dropped == report.notes == []
    known, _ = load_plain_classifier(folders("bert"), 3)
    torch.testing.assert_close(states(model, folders("bert")), states(known, folders("bert")), rtol=0, atol=0)


# --- a model that was fine-tuned on another task ---


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("classes", [1, 3, 5])
def test_a_stranger_s_classifier_starts_a_task_of_its_own(
    family: str, classes: int, folders: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All but the last layer is kept; that one is new even in the same shape, whose classes may mean something else."""
    names = ["contradiction", "neutral", "entailment", "other", "none"][:classes]
    stranger = AutoModelForSequenceClassification.from_pretrained(
        folders(family),
        num_labels=classes,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        problem_type="multi_label_classification",
        return_dict=False,
    )
    stranger.save_pretrained(tmp_path / "tuned")
    caplog.clear()
    torch.manual_seed(5)
    model, report = load_plain_classifier(tmp_path / "tuned", 3)
    assert not caplog.records, "the report says it all"
    last = ["classifier.bias", "classifier.weight"]
    if "classifier.out_proj.weight" in model.state_dict():
        last = ["classifier.out_proj.bias", "classifier.out_proj.weight"]
    assert report.new == report.dropped == last
    old, state = stranger.state_dict(), model.state_dict()
    assert all(torch.equal(state[name], old[name]) for name in report.loaded)
    assert state[last[1]].shape[0] == 3 and not (classes == 3 and torch.equal(state[last[1]], old[last[1]]))
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"} and model.config.num_labels == 3
    model.eval()
    output = model(**batch(folders(family)), labels=torch.tensor([2, 0]))
    expected = torch.nn.functional.cross_entropy(output.logits, torch.tensor([2, 0]))
    torch.testing.assert_close(output.loss, expected)

    regression, _ = load_plain_classifier(tmp_path / "tuned", 1)
    regression.eval()
    output = regression(**batch(folders(family)), labels=torch.tensor([2.5, 0.5]))
    expected = torch.nn.functional.mse_loss(output.logits.squeeze(-1), torch.tensor([2.5, 0.5]))
    torch.testing.assert_close(output.loss, expected)


# --- what is refused ---


def test_layers_too_many_or_too_few_are_named(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied(folders("bert"), tmp_path / "deep")
    change_config(folder, num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"weights are missing \(16\): bert\.encoder\.layer\.2\.attention"):
        load_plain_classifier(folder, 2)
    change_config(folder, num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"weights without a place \(16\): bert\.encoder\.layer\.1\.attention"):
        load_plain_classifier(folder, 2)


Damage = Callable[[Path], Any]


def stated(**changes: Any) -> Damage:
    return lambda folder: change_config(folder, **changes)


def weighted(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    return lambda folder: change_weights(folder, change)


QUERY = "bert.encoder.layer.0.attention.self.query.weight"
SCALE = "bert.embeddings.LayerNorm.weight"
REFUSED: dict[str, tuple[str, Damage, str]] = {
    "an encoder-decoder": ("t5", lambda folder: None, "t5 is an encoder-decoder"),
    "its encoder alone": ("t5", stated(is_encoder_decoder=False, architectures=["T5EncoderModel"]), "encoder-decoder"),
    "a decoder": ("bert", stated(model_type="gpt2"), "gpt2 is a decoder, made to generate text"),
    "a causal encoder": ("bert", stated(is_decoder=True), "is_decoder is set"),
    "a model of images": ("bert", stated(model_type="vit"), "vit is no masked language model of text"),
    "another family's file": (
        "roberta",
        stated(model_type="bert", architectures=None),
        "weights are those of a roberta",
    ),
    "another family's class": ("bert", stated(architectures=["RobertaModel"]), "architectures names RobertaModel"),
    "a class that is a number": (
        "bert",
        lambda f: [stated(architectures=[7])(f), stated(model_type="vit")(f)],
        "vit is",
    ),
    "quantized by its config": ("bert", stated(quantization_config={"bits": 4}), "quantization_config"),
    "quantized weights": ("bert", weighted(lambda w: w.update({QUERY: w[QUERY].to(torch.int8)})), "type int8"),
    "whole numbers for weights": (
        "bert",
        weighted(lambda w: w.update({QUERY: w[QUERY].long()})),
        "of type torch.int64",
    ),
    "eight bits": ("bert", weighted(lambda w: w.update({QUERY: w[QUERY].to(torch.float8_e4m3fn)})), "float8_e4m3fn"),
    "NaN": (
        "bert",
        weighted(lambda w: w[QUERY].__setitem__((0, 0), float("nan"))),
        r"NaN or infinite values: bert\.enc",
    ),
    "infinite": ("bert", weighted(lambda w: w[QUERY].__setitem__((1, 1), float("inf"))), "1 weights hold NaN or inf"),
    "weights twice": ("bert", weighted(lambda w: w.update({f"module.{n}": t.clone() for n, t in w.items()})), "twice"),
    "a norm's scale under both of its names": (
        "bert",
        weighted(lambda w: w.update({SCALE.replace("weight", "gamma"): w[SCALE] + 1})),
        r"twice, under different names \(1\): bert\.embeddings\.LayerNorm\.gamma$",
    ),
    "with and without its prefix": (
        "bert",
        weighted(lambda w: w.update({n.removeprefix("bert."): t + 1 for n, t in w.items() if n.startswith("bert.e")})),
        r"twice, under different names \(37\): embeddings\.LayerNorm\.bias",
    ),
    "more than 32 bits hold": ("bert", weighted(lambda w: w.update({QUERY: w[QUERY].double() * 1e300})), "infinite"),
    "two encoders": (
        "bert",
        weighted(
            lambda w: [
                w.update({f"{k}.{n}": t.clone() for k in ("teacher", "student")}) or w.pop(n) for n, t in [*w.items()]
            ]
        ),
        r"weights without a place \(46\)",
    ),
    "an adapter's weights": ("bert", weighted(lambda w: w.update({f"{QUERY}.lora_A": w[QUERY].clone()})), "lora_A"),
    "an adapter beside it": ("bert", lambda folder: (folder / "adapter_config.json").write_text("{}"), "adapter"),
    "another shape": (
        "bert",
        weighted(lambda w: w.update({QUERY: w[QUERY][:5].clone()})),
        r"another shape .* \(1\): bert",
    ),
    "empty": ("bert", weighted(lambda w: w.clear()), r"weights are missing \(3"),
    "TensorFlow's": ("bert", lambda f: (f / "model.safetensors").rename(f / "tf_model.h5"), "TensorFlow's"),
    "Flax's": ("bert", lambda f: (f / "model.safetensors").rename(f / "flax_model.msgpack"), "Flax's"),
    "half precision alone": (
        "bert",
        lambda f: (f / "model.safetensors").rename(f / "model.fp16.safetensors"),
        "variant",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_a_random_model_in_part_is_refused(
    case: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    family, damage, says = REFUSED[case]
    folder = copied(folders(family), tmp_path / "model")
    damage(folder)
    with pytest.raises(CheckpointError, match=says):
        load_plain_classifier(folder, 2)


def test_a_kind_that_is_of_no_use_is_not_called_corrupt(folders: Callable[[str], Path]) -> None:
    with pytest.raises(UnfitError):
        load_plain_classifier(folders("t5"), 2)


# --- files of weights ---


def test_of_two_formats_safetensors_are_read_and_the_report_says_so(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied(folders("bert"), tmp_path / "both")
    torch.save({QUERY: torch.zeros(1)}, folder / "pytorch_model.bin")
    model, report = load_plain_classifier(folder, 2)
    assert report.notes == ["read from model.safetensors; not read: pytorch_model.bin"]
    assert torch.equal(model.state_dict()[QUERY], load_file(folder / "model.safetensors")[QUERY])


INDEXES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a folder above": (lambda i: i["weight_map"].update({QUERY: "../model.safetensors"}), r"names '\.\./model"),
    "a path of its own": (lambda i: i["weight_map"].update({QUERY: "/etc/model.safetensors"}), "same folder"),
    "a folder below": (lambda i: i["weight_map"].update({QUERY: "deep/model.safetensors"}), "same folder"),
    "a Windows path": (lambda i: i["weight_map"].update({QUERY: "..\\model.safetensors"}), "same folder"),
    "another format": (lambda i: i["weight_map"].update({QUERY: "model.bin"}), "same folder"),
    "a shard too many": (lambda i: i["weight_map"].update({QUERY: "model-00003-of-00003.safetensors"}), "is missing"),
    "a weight too few": (lambda i: i["weight_map"].pop(QUERY), "holds other weights than its index says: bert"),
    "a weight too many": (lambda i: i["weight_map"].update(x="model-00001-of-00002.safetensors"), "index says: x"),
    "a number": (lambda i: i["weight_map"].update({QUERY: 7}), "does not name a file"),
    "no map": (lambda i: i.pop("weight_map"), "is no index"),
    "an empty map": (lambda i: i["weight_map"].clear(), "does not name a file"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_a_damaged_index_of_shards_is_refused(case: str, tmp_path: Path) -> None:
    change, says = INDEXES[case]
    folder = encoder_folder("bert", tmp_path / "shards", sharded=True)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=says):
        read_weights(folder)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_shard_that_is_missing_or_cut_is_refused(kind: Any, tmp_path: Path) -> None:
    folder = encoder_folder("bert", tmp_path / "shards", sharded=True, format=kind)
    shard = max(folder.glob(f"*-of-*.{kind}"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"00002-of-00002.* cannot be read"):
        read_weights(folder)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"shard '.*00002-of-00002.*' is missing"):
        read_weights(folder)


# --- never a random model without a word ---


@given(data=st.data())
def test_whatever_is_renamed_or_left_out_the_encoder_is_whole_or_refused(
    data: st.DataObject, folders: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    family = data.draw(st.sampled_from(["bert", "distilbert", "modernbert"]))
    folder = copied(folders(family), tmp_path_factory.mktemp("renamed") / "model")
    weights = load_file(folder / "model.safetensors")
    stored = dict(weights)
    prefix = data.draw(st.sampled_from(["", "", "model.", "module.", "x.y.", "bert.", "roberta."]))
    names = {name: prefix + name for name in weights}
    for name in data.draw(st.lists(st.sampled_from(sorted(weights)), max_size=3)):
        change = data.draw(st.sampled_from(["leave out", "upper", "shorten", "prefix", "swap", "head"]))
        if change == "leave out":
            names.pop(name, None)
        elif name in names:
            parts = names[name].split(".")
            spot = random.Random(data.draw(st.integers(0, 9))).randrange(len(parts))
            names[name] = {
                "upper": ".".join([*parts[:spot], parts[spot].upper(), *parts[spot + 1 :]]),
                "shorten": ".".join([*parts[:spot], *parts[spot + 1 :]]) or "x",
                "prefix": f"other.{names[name]}",
                "swap": names[name].replace("weight", "scale"),
                "head": f"cls.{names[name]}",
            }[change]
    save_file({new: weights[old].clone() for old, new in names.items()}, folder / "model.safetensors")
    try:
        model, report = load_plain_classifier(folder, 2)
    except CheckpointError:
        return
    base = f"{model.base_model_prefix}."
    for name, tensor in model.state_dict().items():
        if name in report.loaded or (name.startswith(base) and ".pooler." not in name):
            assert torch.equal(tensor, stored[name]), f"{name} is not the file's"
    assert len(report.loaded) + len(report.dropped) == len(set(names.values()))
