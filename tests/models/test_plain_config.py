"""A setting that transformers would not follow is refused or named: what is computed is what config.json says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_folders import FAMILIES, encoder_folder
from safetensors.torch import load_file, save_file

from models.plain import load_plain_classifier
from models.plain_config import UNREAD, check_settings
from models.weight_files import UnfitError

ENCODERS = [name for name in FAMILIES if name != "t5"]
# What transformers 2 to 4 wrote into every config.json, and what the Hub's oldest folders state beside it.
OLD_DUMP: dict[str, Any] = json.loads("""{
    "gradient_checkpointing": false, "position_embedding_type": "absolute",
    "use_cache": true, "pruned_heads": {}, "finetuning_task": null, "num_labels": 2, "output_past": true,
    "output_attentions": false, "output_hidden_states": true, "torchscript": true, "use_bfloat16": false,
    "do_sample": false, "num_beams": 1, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "length_penalty": 1.0,
    "repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0, "diversity_penalty": 0.0, "bad_words_ids": null,
    "tie_encoder_decoder": false, "cross_attention_hidden_size": null, "add_cross_attention": false, "prefix": null,
    "is_decoder": false, "is_encoder_decoder": false, "task_specific_params": null, "problem_type": null,
    "begin_suppress_tokens": null, "exponential_decay_length_penalty": null, "tf_legacy_loss": false,
    "transformers_version": "4.11.3", "torch_dtype": "float32", "_name_or_path": "somebody/model", "auto_map": {},
    "chunk_size_feed_forward": 0, "sep_token_id": null, "decoder_start_token_id": null, "directionality": "bidi",
    "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_type": "first_token_transform",
    "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "tie_word_embeddings": true
}""")


def changed(family: str, folder: Path, **changes: Any) -> Path:
    """A folder of a family in which config.json states other values; `...` leaves a key out."""
    encoder_folder(family, folder)
    path = folder / "config.json"
    stated = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in stated.items() if value is not ...}))
    return folder


@pytest.mark.parametrize("family", ENCODERS)
def test_what_old_versions_wrote_is_read_without_a_word(family: str, tmp_path: Path) -> None:
    _, report = load_plain_classifier(changed(family, tmp_path / "old", **OLD_DUMP), 2)
    assert report.notes == ["its own code is not run: the model is that of transformers"]  # `auto_map`


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("position_embedding_type", "relative_key", "absolute"),
        ("position_embedding_type", "relative_key_query", "absolute"),
        ("position_embedding_type", "alibi", "absolute"),
        ("pruned_heads", {"0": [1], "11": [3]}, "none"),
        ("feed_forward_type", "geglu", "original"),
        ("talking_head", True, "none"),
    ],
)
def test_a_setting_that_transformers_no_longer_follows_is_refused(
    family: str, key: str, value: Any, allowed: str, tmp_path: Path
) -> None:
    folder = changed(family, tmp_path / "old", **{key: value})
    with pytest.raises(UnfitError) as refused:
        load_plain_classifier(folder, 2)
    says = str(refused.value)
    assert f"{key}: got {value!r}; allowed: {allowed}, transformers" in says and f"has no other {family}; fix: " in says
    with pytest.raises(UnfitError):
        load_plain_classifier(folder, 2, random_start=True)


def test_a_family_whose_code_reads_the_setting_keeps_it() -> None:
    """ESM's positions may be rotary, DeBERTa's heads may talk: their code names these keys."""
    from transformers import DebertaForSequenceClassification, EsmForSequenceClassification

    esm, deberta = {"model_type": "esm"}, {"model_type": "deberta"}
    assert check_settings(esm | {"position_embedding_type": "rotary"}, EsmForSequenceClassification, Path()) == []
    assert check_settings(deberta | {"talking_head": True}, DebertaForSequenceClassification, Path()) == []
    assert set(UNREAD) >= {"position_embedding_type", "talking_head"}


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        *(("deberta-v2", "pos_att_type", value) for value in ("p2p", "c2p,p2c", ["C2P"], ["c2p", "p2p"], "c2p|")),
        *(("modernbert", f"{kind}_rope_theta", value) for kind in ("local", "global") for value in (None, -1, "1e4")),
    ],
)
def test_a_value_that_transformers_would_take_for_something_else_is_refused(
    family: str, key: str, value: Any, tmp_path: Path
) -> None:
    with pytest.raises(UnfitError, match=f"{key}: got .*; allowed: .*; fix: correct it"):
        load_plain_classifier(changed(family, tmp_path / "odd", **{key: value}), 2)


@pytest.mark.parametrize("value", ["C2P|P2C", "p2c", ["c2p", "p2c"]])
def test_the_terms_of_deberta_s_attention_are_those_stated(value: Any, tmp_path: Path) -> None:
    model, _ = load_plain_classifier(changed("deberta-v2", tmp_path / "deberta", pos_att_type=value), 2)
    wanted = {*(value.lower().split("|") if isinstance(value, str) else value)}
    assert {*model.deberta.encoder.layer[0].attention.self.pos_att_type} == wanted


def test_settings_of_modernbert_of_either_format_are_followed(tmp_path: Path) -> None:
    stated = {"global_rope_theta": 5000.0, "local_rope_theta": 77.0, "global_attn_every_n_layers": 1}
    model, report = load_plain_classifier(changed("modernbert", tmp_path / "old", **stated), 2)
    parameters = model.config.rope_parameters
    assert [parameters[kind]["rope_theta"] for kind in ("full_attention", "sliding_attention")] == [5000.0, 77.0]
    assert model.config.layer_types == ["full_attention"] * 2 and report.notes == []


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("distilbert", "hidden_act", "relu"),  # it reads `activation`
        ("modernbert", "hidden_act", "relu"),  # it reads `hidden_activation`
        ("modernbert", "layer_norm_eps", 0.1),  # it reads `norm_eps`
        ("mpnet", "rotary_value", True),
        ("bert", "loss_type", "ForMaskedLM"),
    ],
)
def test_what_else_is_not_read_stands_in_the_report(family: str, key: str, value: Any, tmp_path: Path) -> None:
    _, report = load_plain_classifier(changed(family, tmp_path / "odd", **{key: value}), 2)
    assert report.notes == [f"config.json states what transformers does not read: {key} = {value!r}"]


def test_what_the_hub_states_of_modernbert_twice_is_no_note(tmp_path: Path) -> None:
    stated = {"norm_eps": 1e-5, "layer_norm_eps": 1e-5, "hidden_activation": "gelu", "hidden_act": "gelu"}
    model, report = load_plain_classifier(changed("modernbert", tmp_path / "base", **stated), 2)
    assert report.notes == [] and model.config.norm_eps == 1e-5


def test_attention_that_another_machine_had_is_not_asked_for(tmp_path: Path) -> None:
    model, report = load_plain_classifier(
        changed("bert", tmp_path / "flash", attn_implementation="flash_attention_2"), 2
    )
    assert model.config._attn_implementation == "sdpa" and report.notes == []


# --- two families whose names fit each other ---


def bare(folder: Path, prefix: str, **changes: torch.Tensor) -> Path:
    """The weights of a folder without the name of the family in front."""
    weights = load_file(folder / "model.safetensors")
    stored = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    save_file(stored | changes, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert", "data2vec-text"])
@pytest.mark.parametrize("positions", [64, 512])
def test_bert_s_weights_are_refused_under_a_config_that_counts_as_roberta(
    kind: str, positions: int, tmp_path: Path
) -> None:
    folder = encoder_folder("bert", tmp_path / "bert", config={"max_position_embeddings": positions})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": kind, "architectures": None}))
    with pytest.raises(UnfitError, match=rf"{positions} rows from the first token on.*{kind} counts from row 1; fix: "):
        load_plain_classifier(bare(folder, "bert."), 2)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_roberta_s_weights_are_refused_under_a_config_that_counts_as_bert(family: str, tmp_path: Path) -> None:
    folder = changed(family, tmp_path / family, model_type="bert", architectures=None)
    with pytest.raises(UnfitError, match="empty row for padding, as RoBERTa's, bert counts from row 0"):
        load_plain_classifier(bare(folder, "roberta."), 2)


def test_bare_weights_under_their_own_family_load(tmp_path: Path) -> None:
    """Also a RoBERTa with the 512 positions of its config's default, and one whose row of padding was trained."""
    known = load_plain_classifier(encoder_folder("roberta", tmp_path / "named"), 2)[0].base_model
    own = load_plain_classifier(bare(encoder_folder("roberta", tmp_path / "bare"), "roberta."), 2)[0].base_model
    assert all(torch.equal(tensor, own.state_dict()[name]) for name, tensor in known.state_dict().items())
    from_scratch = encoder_folder("roberta", tmp_path / "512", config={"max_position_embeddings": 512})
    load_plain_classifier(bare(from_scratch, "roberta."), 2)
    table = "embeddings.position_embeddings.weight"
    trained = encoder_folder("roberta", tmp_path / "trained")
    load_plain_classifier(bare(trained, "roberta.", **{table: torch.ones(66, 32)}), 2)
