"""Tokenizers of every family, as transformers itself reads them; names of special tokens in texts stay text."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_folders import FAMILIES, SENTENCES, encoder_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from models.objectives import CorruptionSettings, mask_tokens, sample_generator, word_starts
from models.tokenizing import TOKENIZER_FILES, text_only, vocabulary_size
from tasks.data.corpus import train_tokenizer
from tasks.data.plain_rows import plain_rows
from tasks.data.task_data import encode_pairs
from tasks.data.tokenizers import PLAIN_TOKENS, copy_tokenizer, load_tokenizer, tokenizer_fingerprint
from tasks.errors import UserError

LITERALS = (
    *("[MASK]", "[PAD]", "[CLS]", "[SEP]", "[UNK]", "<s>", "</s>", "<pad>", "<mask>", "<unk>"),
    *("<|endoftext|>", "<extra_id_3>", "<<s>", "<s>s>", "[MASK][MASK]"),
)
WITH_MASK = [family for family in FAMILIES if family != "t5"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of every family."""
    root = tmp_path_factory.mktemp("encoders")
    return {family: encoder_folder(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Any]:
    return {family: load_tokenizer(folder, PLAIN_TOKENS) for family, folder in folders.items()}


@pytest.fixture(scope="module")
def theirs(folders: dict[str, Path]) -> dict[str, Any]:
    """What transformers makes of the same folders."""
    return {family: AutoTokenizer.from_pretrained(folder) for family, folder in folders.items()}


def files_of(source: Path, target: Path, *names: str) -> Path:
    """A folder with some files of another, config.json among them."""
    target.mkdir()
    for name in ("config.json", "tokenizer_config.json", *names):
        shutil.copyfile(source / name, target / name)
    return target


# --- as transformers reads them ---

words = st.one_of(st.sampled_from(SENTENCES), st.text(max_size=40), st.text("aeß É.3 \n\t東", max_size=60))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(words, words), min_size=1, max_size=4), max_length=st.integers(8, 64))
def test_rows_are_those_of_the_call_of_transformers(
    loaded: dict[str, Any], theirs: dict[str, Any], family: str, pairs: list[tuple[str, str]], max_length: int
) -> None:
    rows = plain_rows(loaded[family], list(zip(*pairs, strict=True)), max_length)
    single = plain_rows(loaded[family], [[first for first, _ in pairs]], max_length)
    call = {"truncation": True, "max_length": max_length, "return_token_type_ids": True}
    for number, (first, second) in enumerate(pairs):
        for found, texts in ((rows, (first, second)), (single, (first,))):
            # As a batch of one: a call with two strings takes an empty second text for none.
            expected = {name: row[0] for name, row in theirs[family](*([text] for text in texts), **call).items()}
            start, end = found["offsets"][number : number + 2]
            assert found["ids"][start:end].tolist() == expected["input_ids"]
            assert found["token_types"][start:end].tolist() == expected["token_type_ids"]


def test_the_templates_are_those_of_the_families(loaded: dict[str, Any]) -> None:
    expected = {
        "bert": ("[CLS] a [SEP] b [SEP]", [0, 0, 0, 1, 1]),
        "roberta": ("<s> a </s> </s> b </s>", [0, 0, 0, 0, 0, 0]),
        "mpnet": ("<s> a </s> </s> b </s>", [0, 0, 0, 0, 0, 0]),
        "albert": ("[CLS] ▁a [SEP] ▁b [SEP]", [0, 0, 0, 1, 1]),
        "t5": ("▁a </s> ▁b </s>", [0, 0, 0, 0]),
        "xlm-roberta": ("<s> ▁a </s> </s> ▁b </s>", [0] * 6),
        "modernbert": ("[CLS] a [SEP] b [SEP]", [0, 0, 0, 0, 0]),
    }
    for family, (tokens, types) in expected.items():
        rows = plain_rows(loaded[family], [["a"], ["b"]], 16)
        assert " ".join(loaded[family].convert_ids_to_tokens(rows["ids"].tolist())) == tokens
        assert rows["token_types"].tolist() == types


@pytest.mark.parametrize(
    ("family", "names"),
    [(family, ["vocab.txt"]) for family in ("bert", "distilbert", "electra", "mpnet")]
    + [("roberta", ["vocab.json", "merges.txt"])],
)
def test_a_vocabulary_without_a_tokenizer_json_is_converted(
    folders: dict[str, Path], loaded: dict[str, Any], tmp_path: Path, family: str, names: list[str]
) -> None:
    old = load_tokenizer(files_of(folders[family], tmp_path / "old", *names))
    for text in SENTENCES:
        assert text_only(old).encode(text).ids == text_only(loaded[family]).encode(text).ids


def test_a_tokenizer_without_mask_or_padding_is_refused_with_a_fix(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"t5: has no cls, sep, mask token; fix: use a tokenizer like BERT's"):
        load_tokenizer(folders["t5"])
    bare = files_of(folders["bert"], tmp_path / "bare", "tokenizer.json")
    (bare / "config.json").unlink()
    with pytest.raises(UserError, match=r"no pad, cls, sep, mask token; fix: put the config\.json of its model there"):
        load_tokenizer(bare)
    (bare / "config.json").write_text('{"model_type": "gpt2"}')
    shutil.copyfile(folders["roberta"] / "tokenizer.json", bare / "tokenizer.json")
    (bare / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    with pytest.raises(UserError, match="has no pad token"):
        load_tokenizer(bare, PLAIN_TOKENS)


def test_code_of_a_tokenizer_is_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = files_of(folders["bert"], tmp_path / "code", "tokenizer.json")
    (folder / "theirs.py").write_text("raise SystemExit('it ran')")
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["theirs.T", "theirs.T"]}}')
    loaded = load_tokenizer(folder)
    assert type(loaded).__module__.startswith("transformers.") and loaded.mask_token_id == 4


def test_two_readings_of_one_folder_are_told(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A cased BERT whose tokenizer_config.json does not say so: transformers would lower-case its texts."""
    folder = files_of(folders["bert"], tmp_path / "cased", "tokenizer.json")
    stated = json.loads((folder / "tokenizer.json").read_text())
    stated["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(stated))
    with caplog.at_level(logging.WARNING, "cogito.tokenizer"):
        load_tokenizer(folder)
        assert 'reads "Don\'t STOP  at 3.5%, naïve Café!" otherwise than its tokenizer.json' in caplog.text
        caplog.clear()
        (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
        load_tokenizer(folder)
        for other in folders.values():
            load_tokenizer(other, PLAIN_TOKENS)
        assert caplog.text == ""


def test_a_pair_that_nothing_separates_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = files_of(folders["modernbert"], tmp_path / "bare", "tokenizer.json")
    stated = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(stated | {"post_processor": None}))
    with pytest.raises(UserError, match="its template adds no token to a pair"):
        plain_rows(load_tokenizer(folder), [["a"], ["b"]], 16)


# --- texts are text ---


def text_ids(tokenizer: Any, text: str) -> list[int]:
    return text_only(tokenizer).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.one_of(st.sampled_from(LITERALS), st.text(max_size=8)), min_size=1, max_size=6))
def test_the_name_of_a_special_token_is_text(loaded: dict[str, Any], family: str, parts: list[str]) -> None:
    tokenizer, text = loaded[family], "".join(parts)
    special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    assert not special & {*text_ids(tokenizer, text)}
    pair = plain_rows(tokenizer, [[text], [text]], 10_000)["ids"].tolist()
    template = plain_rows(tokenizer, [[""], [""]], 10_000)["ids"].tolist()
    assert [number for number in pair if number in special] == template
    if family in WITH_MASK:
        ids, _, _ = encode_pairs(tokenizer, [[text], [text]], 10_000)
        inside = [number for number in ids.tolist() if number in special]
        assert inside == [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.sep_token_id]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_characters_of_a_literal_are_kept(loaded: dict[str, Any], family: str) -> None:
    """`<s>` and `[MASK]` are read as pieces that spell them, as any other text in brackets is."""
    tokenizer = loaded[family]
    for literal in ("<s>", "[MASK]", "<mask>", "</s>"):
        pieces = [piece.strip("#▁Ġ") for piece in text_only(tokenizer).encode(literal, add_special_tokens=False).tokens]
        assert "".join(pieces).lower() == literal.lower()
    assert tokenizer.convert_tokens_to_ids(tokenizer.pad_token) == tokenizer.pad_token_id, "the original is untouched"


@pytest.mark.parametrize("family", FAMILIES)
@given(text=st.text(max_size=60))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_other_texts_are_read_as_before(loaded: dict[str, Any], theirs: dict[str, Any], family: str, text: str) -> None:
    if not any(token in text for token in theirs[family].all_special_tokens):
        assert text_ids(loaded[family], text) == theirs[family](text, add_special_tokens=False)["input_ids"]


def literal_tokenizer(model: Any, split: Any) -> PreTrainedTokenizerFast:
    backend = Tokenizer(model)
    backend.pre_tokenizer = split
    backend.add_tokens([AddedToken("[MASK]", special=False), AddedToken("[PAD]", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", pad_token="[PAD]", unk_token="u")


def test_models_that_hold_whole_words_give_no_special_token_either() -> None:
    """A word-level vocabulary and a BPE that looks whole words up would find [MASK]; its entry may not say special."""
    entries = {"u": 0, "[MASK]": 1, "[PAD]": 2, "a": 3, "[": 4, "M": 5, "A": 6, "S": 7, "K": 8, "]": 9, "MASK]": 10}
    words = literal_tokenizer(models.WordLevel(entries, "u"), pre_tokenizers.WhitespaceSplit())
    pairs = literal_tokenizer(models.BPE(entries, [], ignore_merges=True), pre_tokenizers.WhitespaceSplit())
    pieces = literal_tokenizer(models.WordPiece(entries, unk_token="u"), None)
    for tokenizer, expected in ((words, [3, 4, 10]), (pairs, [3, 4, 10]), (pieces, None)):
        ids = text_ids(tokenizer, "a [MASK]")
        assert not {1, 2} & {*ids}
        assert expected is None or ids == expected
        assert tokenizer("a [MASK]", add_special_tokens=False)["input_ids"][-1] == 1, "a mask that is meant stays one"


def test_a_made_tokenizer_reads_literals_as_text(tmp_path: Path) -> None:
    train_tokenizer(iter([*SENTENCES, "a [MASK] and <s>, [PAD] [PAD] [PAD]"] * 20), 420, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    for literal in LITERALS:
        ids = text_ids(tokenizer, f"x {literal} y")
        assert not {*tokenizer.all_special_ids} & {*ids}
        assert tokenizer.backend_tokenizer.decode(ids) == f"x {literal} y"


# --- copies ---


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_gives_the_same_ids_without_the_models_config(
    folders: dict[str, Path], loaded: dict[str, Any], tmp_path: Path, family: str
) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    once.mkdir()
    twice.mkdir()
    copy_tokenizer(folders[family], once)
    copy_tokenizer(once, twice)
    assert tokenizer_fingerprint(once) == tokenizer_fingerprint(twice), "a copy of a copy is the same tokenizer"
    assert not (once / "config.json").exists()
    for reader in (lambda: load_tokenizer(once, PLAIN_TOKENS), lambda: AutoTokenizer.from_pretrained(once)):
        copy = reader()
        for name in ("pad", "cls", "sep", "mask", "unk"):
            assert getattr(copy, f"{name}_token_id") == getattr(loaded[family], f"{name}_token_id")
        assert {*copy.all_special_ids} == {*loaded[family].all_special_ids}
        assert copy.model_max_length == loaded[family].model_max_length
        for text in (*SENTENCES, "a [MASK] b <mask>", " Straße É\n3.5"):
            assert text_ids(copy, text) == text_ids(loaded[family], text)
            assert copy(text)["input_ids"] == loaded[family](text)["input_ids"]
    (once / "config.json").write_text('{"model_type": "concept_encoder", "auto_map": {}}')
    assert text_ids(load_tokenizer(once, PLAIN_TOKENS), SENTENCES[0]) == text_ids(loaded[family], SENTENCES[0])


def test_the_identity_follows_the_type_of_the_model(folders: dict[str, Path], tmp_path: Path) -> None:
    """The same files are BERT's or MPNet's by config.json alone; what else config.json says changes nothing."""
    folder = files_of(folders["bert"], tmp_path / "bert", "vocab.txt")
    first = tokenizer_fingerprint(folder)
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | {"num_hidden_layers": 7}))
    assert tokenizer_fingerprint(folder) == first
    for decisive in ({"model_type": "mpnet"}, {"tokenizer_class": "MPNetTokenizer"}):
        (folder / "config.json").write_text(json.dumps(stated | decisive))
        assert tokenizer_fingerprint(folder) != first
        assert "<s>" in load_tokenizer(folder, PLAIN_TOKENS).all_special_tokens, "transformers follows it"
    (folder / "config.json").write_text(json.dumps(stated))
    assert tokenizer_fingerprint(folder) == first
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text() + "more\n")
    assert tokenizer_fingerprint(folder) != first
    assert {"spm.model", "merges.txt", "added_tokens.json"} <= {*TOKENIZER_FILES}


# --- pretraining with them ---


@pytest.mark.parametrize("family", WITH_MASK)
def test_masking_leaves_special_tokens_alone(loaded: dict[str, Any], family: str) -> None:
    tokenizer = loaded[family]
    body = text_ids(tokenizer, SENTENCES[0])
    ids = np.array([tokenizer.cls_token_id, *body, tokenizer.sep_token_id])
    chosen = CorruptionSettings(
        mask_prob=1.0,
        mask_token_id=tokenizer.mask_token_id,
        vocab_size=vocabulary_size(tokenizer),
        special_ids=tuple(tokenizer.all_special_ids),
        whole_word=True,
        word_starts=word_starts(tokenizer),
    )
    sample = mask_tokens(ids, sample_generator(0, 0, 0, 0), chosen)
    ordinary = np.isin(ids, tokenizer.all_special_ids, invert=True)
    assert ((sample.labels >= 0) == ordinary).all() and not ordinary[[0, -1]].any()
    assert (sample.input_ids[~ordinary] == ids[~ordinary]).all()
    assert (sample.input_ids[ordinary] == tokenizer.mask_token_id).mean() > 0.6


def test_a_word_begins_where_the_kind_of_the_tokenizer_says(loaded: dict[str, Any]) -> None:
    """A byte-level vocabulary may hold "##" as text (a heading), which makes it no WordPiece."""

    def starts(tokenizer: Any, text: str) -> list[bool]:
        return word_starts(tokenizer)[text_ids(tokenizer, text)].tolist()

    assert starts(loaded["bert"], "playings fox") == [True, False, True]
    backend = Tokenizer(models.BPE({"#": 0, "##": 1, "a": 2, "b": 3, "Ġ": 4, "Ġa": 5}, [("#", "#"), ("Ġ", "a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert starts(PreTrainedTokenizerFast(tokenizer_object=backend), "## ab") == [True, True, False]


def test_the_size_of_a_vocabulary_counts_its_gaps() -> None:
    backend = Tokenizer(models.WordLevel({"u": 0, "a": 1, "far": 40}, "u"))
    backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="u")
    assert len(tokenizer) == 3 and vocabulary_size(tokenizer) == 41 and len(word_starts(tokenizer)) == 41


def test_a_cased_vocabulary_that_is_read_in_lower_case_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A vocab.txt alone is read by BERT's default, do_lower_case."""
    folder = encoder_folder("bert", tmp_path / "cased")
    (folder / "tokenizer.json").unlink()
    words = sorted({word.strip(".,;?").capitalize() for text in SENTENCES for word in text.split()})
    with (folder / "vocab.txt").open("a") as file:
        file.writelines(f"{word}\n" for word in words)
    for stated, first, warned in (({}, "the", True), ({"do_lower_case": False}, "The", False)):
        (folder / "tokenizer_config.json").write_text(json.dumps(stated))
        caplog.clear()
        with caplog.at_level(logging.WARNING, "cogito.tokenizer"):
            assert load_tokenizer(folder, PLAIN_TOKENS).tokenize("The quick fox")[0] == first
        assert ("lower-cases every text, and" in caplog.text) == warned
