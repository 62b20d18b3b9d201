"""Data preparation on small local data sets in the Hub's layout: nothing is lost, mixed, repeated or done twice."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.corpus import (
    SPECIAL_TOKENS,
    data_identity,
    load_tokenizer,
    prepare_corpus,
    train_tokenizer,
    unigram_cross_entropy,
)
from tasks.data.sources import find_dataset, find_tokenizer, resolve_data_root
from tasks.data.token_blocks import TokenBlocks
from tasks.data.tokenizers import tokenizer_fingerprint
from tasks.errors import UserError
from tasks.spec.pretraining import DataSpec
from tasks.store.home import Home
from tasks.store.records import CorpusResult

WORDS = [
    "a",
    "river",
    "the",
    "stone",
    "über",
    "quick",
    "naïve",
    "über-",
    "fox",
    "runs",
    "日本",
    "\n",
    "two  spaces",
    ".",
]
TEXT = "ada/tales"
TOKENIZER = "ada/words"


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Different texts of 1 to 60 words."""
    random = np.random.default_rng(seed)
    return [f"{n} " + " ".join(random.choice(WORDS, random.integers(1, 60))) for n in range(count)]


def write_dataset(folder: Path, column: str = "text", **splits: Sequence[str | None]) -> None:
    """A data set as the Hub lays it out: `data/train-00000-of-00001.parquet`."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, texts in splits.items():
        table = pa.table({column: pa.array(texts, pa.string()), "source": ["made"] * len(texts)})
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(iter(make_texts(100)), 320, folder)
    return folder


@pytest.fixture
def root(tmp_path: Path, small_tokenizer: Path) -> Path:
    """A mirror that holds the tokenizer; tests add the texts."""
    folder = tmp_path / "mirror"
    (folder / "ada").mkdir(parents=True)
    shutil.copytree(small_tokenizer, folder / TOKENIZER)
    return folder


def make_spec(**changes: Any) -> DataSpec:
    fields: dict[str, Any] = {"dataset": TEXT, "block_tokens": 16, "held_out_share": 0.2}
    if "train_tokenizer_vocab_size" not in changes:
        fields["tokenizer"] = TOKENIZER
    return DataSpec(**fields | changes)


def prepare(spec: DataSpec, home: Home, root: Path, **options: Any) -> CorpusResult:
    return prepare_corpus(spec, find_dataset(spec.dataset, home, root), home, root, **options)


def stored_documents(corpus: CorpusResult, side: str) -> list[np.ndarray]:
    """The tokens of every document as they lie on disk, from document start to document start."""
    blocks = TokenBlocks(corpus.folder, side)
    starts = np.load(corpus.folder / side / "documents.npy")
    return np.split(np.asarray(blocks.tokens, dtype=np.int64), starts[1:])


def strip_specials(ids: np.ndarray, tokenizer: Any) -> list[int]:
    return [int(token) for token in ids if token not in (tokenizer.cls_token_id, tokenizer.sep_token_id)]


def read_back(corpus: CorpusResult, side: str) -> list[str]:
    """The texts of one side, from its tokens."""
    tokenizer = load_tokenizer(corpus.tokenizer)
    return [
        tokenizer.backend_tokenizer.decode(strip_specials(ids, tokenizer)) for ids in stored_documents(corpus, side)
    ]


def covered(blocks: TokenBlocks) -> np.ndarray:
    """How many blocks hold each token."""
    counts = np.zeros(len(blocks.tokens), dtype=int)
    for start, length in zip(blocks.starts, blocks.lengths, strict=True):
        counts[start : start + length] += 1
    return counts


# --- concat ---


def test_concat_loses_no_token_and_keeps_document_starts(home: Home, root: Path) -> None:
    texts = make_texts(60)
    write_dataset(root / TEXT, train=[*texts[:30], "", "  \n", None, *texts[30:]])
    corpus = prepare(make_spec(), home, root)
    tokenizer = load_tokenizer(corpus.tokenizer)
    assert sorted(read_back(corpus, "train") + read_back(corpus, "held_out")) == sorted(texts)
    train = [text for text in texts if text in set(read_back(corpus, "train"))]
    assert read_back(corpus, "train") == train, "documents keep their order"
    for side in ("train", "held_out"):
        for ids in stored_documents(corpus, side):
            assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
            assert len(strip_specials(ids, tokenizer)) == len(ids) - 2

        blocks = TokenBlocks(corpus.folder, side)
        assert blocks.equal_lengths and (blocks.lengths == 16).all()
        times = covered(blocks)
        assert times.min() == 1, "every token is in a block"
        over = -len(times) % 16
        # Only the last block reaches back, and no further than it must.
        assert times.sum() == len(times) + over and len(blocks) == -(-len(times) // 16)
        assert blocks.starts[-1] + 16 == len(times)
        assert np.array_equal(blocks.block(len(blocks) - 1), blocks.tokens[-16:])
    assert corpus.train_documents + corpus.held_out_documents == 60
    assert corpus.train_tokens == len(TokenBlocks(corpus.folder, "train").tokens)
    assert corpus.train_blocks == len(TokenBlocks(corpus.folder, "train"))


def test_a_corpus_that_fills_its_blocks_exactly_repeats_nothing(home: Home, root: Path) -> None:
    tokenizer = load_tokenizer(root / TOKENIZER)
    text = " ".join(["fox"] * 200)
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    exact = tokenizer.backend_tokenizer.decode(ids[:30])
    write_dataset(root / TEXT, train=[exact, exact], validation=[exact + "."])
    corpus = prepare(make_spec(held_out_split="validation"), home, root)
    assert (corpus.train_tokens, corpus.train_blocks) == (64, 4)
    assert (covered(TokenBlocks(corpus.folder, "train")) == 1).all()


# --- document ---


def test_document_mode_never_mixes_documents_and_loses_none(home: Home, root: Path) -> None:
    texts = make_texts(60)
    write_dataset(root / TEXT, train=texts)
    corpus = prepare(make_spec(blocks="document"), home, root)
    tokenizer = load_tokenizer(corpus.tokenizer)
    encode = tokenizer.backend_tokenizer.encode
    found = []
    for side in ("train", "held_out"):
        blocks = TokenBlocks(corpus.folder, side)
        assert not blocks.equal_lengths
        assert (covered(blocks) == 1).all()
        documents = np.load(corpus.folder / side / "documents.npy")
        owner = np.searchsorted(documents, blocks.starts, side="right") - 1
        texts_of_side = read_back(corpus, side)
        for number, text in enumerate(texts_of_side):
            parts = [blocks.block(int(index)) for index in np.flatnonzero(owner == number)]
            for part in parts:
                assert part[0] == tokenizer.cls_token_id and part[-1] == tokenizer.sep_token_id
                assert len(part) <= 16 and len(strip_specials(part, tokenizer)) == len(part) - 2
            assert all(len(part) == 16 for part in parts[:-1])
            assert [t for part in parts for t in part[1:-1]] == encode(text, add_special_tokens=False).ids
        found += texts_of_side
    assert sorted(found) == sorted(texts)


# --- the width of the memory map ---


def write_word_tokenizer(folder: Path, size: int) -> None:
    """A tokenizer of `size` entries, one per word `w5`, `w6`..."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: number for number, token in enumerate(SPECIAL_TOKENS.values())}
    vocab |= {f"w{number}": number for number in range(len(vocab), size)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {f"{name}_token": token for name, token in SPECIAL_TOKENS.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(str(folder))


@pytest.mark.parametrize(("size", "width"), [(2**16, 2), (2**16 + 1, 4)])
def test_tokens_take_two_bytes_while_they_fit(home: Home, root: Path, size: int, width: int) -> None:
    write_word_tokenizer(root / "ada/wide", size)
    top = f"w{size - 1} w{size - 2} w7 " * 10
    write_dataset(root / TEXT, train=[top], validation=[top + "w7"])
    corpus = prepare(make_spec(tokenizer="ada/wide", held_out_split="validation"), home, root)
    assert corpus.vocab_size == size
    assert (corpus.folder / "train/tokens.bin").stat().st_size == 32 * width
    block = TokenBlocks(corpus.folder, "train").block(0)
    assert block.dtype == np.int64 and block[:4].tolist() == [1, size - 1, size - 2, 7]


# --- the held-out part ---


def test_a_held_out_split_is_used_as_it_is(home: Home, root: Path) -> None:
    texts = make_texts(40)
    write_dataset(root / TEXT, train=texts[:30], validation=texts[30:])
    corpus = prepare(make_spec(held_out_split="validation"), home, root)
    assert read_back(corpus, "train") == texts[:30]
    assert read_back(corpus, "held_out") == texts[30:]


def test_a_held_out_share_keeps_repeated_documents_on_one_side(home: Home, root: Path) -> None:
    texts = make_texts(400)
    write_dataset(root / TEXT, train=texts + texts[::-1])
    corpus = prepare(make_spec(held_out_share=0.3), home, root)
    train, held_out = Counter(read_back(corpus, "train")), Counter(read_back(corpus, "held_out"))
    assert not train.keys() & held_out.keys()
    assert set(train.values()) == set(held_out.values()) == {2}
    # Five standard errors of a share of 0.3 of 400.
    assert abs(len(held_out) / 400 - 0.3) < 5 * (0.21 / 400) ** 0.5


def test_max_documents_reads_the_first_ones(home: Home, root: Path) -> None:
    texts = make_texts(50)
    write_dataset(root / TEXT, train=texts)
    seen: list[tuple[int, int | None]] = []
    corpus = prepare(make_spec(max_documents=20), home, root, progress=lambda done, total: seen.append((done, total)))
    assert sorted(read_back(corpus, "train") + read_back(corpus, "held_out")) == sorted(texts[:20])
    assert seen[-1] == (20, 20)


# --- caching ---


def test_a_second_call_finds_the_corpus_prepared(home: Home, root: Path, tmp_path: Path) -> None:
    write_dataset(root / TEXT, train=make_texts(40))
    spec = make_spec()
    first = prepare(spec, home, root)
    stamp = (first.folder / "train/tokens.bin").stat().st_mtime_ns
    calls: list[int] = []
    second = prepare(spec, home, root, progress=lambda done, total: calls.append(done))
    assert not first.reused and second.reused and calls == []
    assert second.model_copy(update={"reused": False}) == first
    assert (first.folder / "train/tokens.bin").stat().st_mtime_ns == stamp

    # The place of the data is no part of its identity; text, tokenizer and settings are.
    source = find_dataset(TEXT, home, root)
    identity = data_identity(spec, source, home, root)
    moved = tmp_path / "moved"
    write_dataset(moved / TEXT, train=make_texts(40))
    shutil.copytree(root / TOKENIZER, moved / TOKENIZER)
    assert prepare(spec, home, moved).reused
    assert data_identity(spec, find_dataset(TEXT, home, moved), home, moved) == identity

    write_dataset(moved / TEXT, train=make_texts(40, seed=1))
    changed = prepare(spec, home, moved)
    assert not changed.reused and changed.corpus_id != first.corpus_id
    assert data_identity(spec, find_dataset(TEXT, home, moved), home, moved) != identity
    for other in (make_spec(block_tokens=24), make_spec(blocks="document"), make_spec(held_out_share=0.25)):
        assert not prepare(other, home, root).reused
        assert data_identity(other, source, home, root) != identity


def test_the_corpus_says_what_it_was_made_of(home: Home, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(root / TEXT, train=make_texts(40))
    corpus = prepare(make_spec(), home, root)
    assert (corpus.dataset, corpus.tokenizer_name) == (TEXT, TOKENIZER)
    tokenizer = load_tokenizer(corpus.tokenizer)
    assert corpus.special_token_ids == {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")
    }
    size = sum(len(text.encode()) for text in read_back(corpus, "held_out"))
    assert corpus.bytes_per_token == pytest.approx(size / (corpus.held_out_tokens - 2 * corpus.held_out_documents))
    trained = prepare(make_spec(train_tokenizer_vocab_size=310), home, root)
    assert trained.tokenizer_name == "trained BPE 310"


def test_the_default_tokenizer_has_its_name_in_the_result(home: Home, root: Path, small_tokenizer: Path) -> None:
    write_dataset(root / TEXT, train=make_texts(40))
    spec = make_spec(tokenizer=None)
    shutil.copytree(small_tokenizer, root / "answerdotai/ModernBERT-base")
    assert prepare(spec, home, root).tokenizer_name == "answerdotai/ModernBERT-base"


# --- mistakes ---


def test_too_little_text_is_an_error_and_leaves_nothing(home: Home, root: Path) -> None:
    write_dataset(root / TEXT, train=make_texts(5), validation=["a"])
    with pytest.raises(UserError, match=r"'ada/tales': its held_out part has \d+ tokens, which fill no block of 16"):
        prepare(make_spec(held_out_split="validation"), home, root)
    assert list(home.corpora.iterdir()) == []


def test_a_missing_column_split_or_data_set_is_named(home: Home, root: Path) -> None:
    write_dataset(root / TEXT, column="body", train=make_texts(5))
    with pytest.raises(UserError, match=r"'ada/tales': .*unknown column 'text': allowed: body, source; fix: "):
        prepare(make_spec(), home, root)
    with pytest.raises(UserError, match="'ada/tales': unknown split 'dev': allowed: train; fix: "):
        prepare(make_spec(text_column="body", split="dev"), home, root)
    with pytest.raises(UserError, match=r"'ada/nothing'.*the Hub cannot be reached; fix: .*--data-root"):
        find_dataset("ada/nothing", home, root)
    with pytest.raises(UserError, match=r"tokenizer 'ada/nothing'.*the Hub cannot be reached; fix: "):
        find_tokenizer("ada/nothing", home, root)
    (root / "ada/empty").mkdir()
    with pytest.raises(UserError, match="is empty"):
        find_dataset("ada/empty", home, root)
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        find_tokenizer("ada/empty", home, root)
    with pytest.raises(UserError, match="is not a folder"):
        resolve_data_root(root / "nowhere")


def test_a_tokenizer_without_the_special_tokens_is_refused(home: Home, root: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a")), pad_token="a")
    bare.save_pretrained(str(root / "ada/bare"))
    write_dataset(root / TEXT, train=make_texts(5))
    with pytest.raises(UserError, match="has no cls, sep, mask token; fix: "):
        prepare(make_spec(tokenizer="ada/bare"), home, root)
    (root / "ada/bare/tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        prepare(make_spec(tokenizer="ada/bare"), home, root)


def test_json_lines_are_read_like_parquet(home: Home, root: Path) -> None:
    texts = make_texts(40)
    (root / TEXT).mkdir()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (root / TEXT / "train.jsonl").write_text(lines, encoding="utf-8")
    corpus = prepare(make_spec(), home, root)
    assert sorted(read_back(corpus, "train") + read_back(corpus, "held_out")) == sorted(texts)


# --- a trained tokenizer ---


def test_a_trained_tokenizer_has_the_special_tokens_and_loses_nothing(small_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(small_tokenizer)
    assert {name: getattr(tokenizer, f"{name}_token") for name in SPECIAL_TOKENS} == SPECIAL_TOKENS
    assert len({getattr(tokenizer, f"{name}_token_id") for name in SPECIAL_TOKENS}) == 5
    assert len(tokenizer) == 320
    pair = tokenizer("the fox", "a stone").input_ids
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert pair[0] == cls_id and pair[-1] == sep_id and pair.count(sep_id) == 2
    for text in ("Zwölf Boxkämpfer", "日本語 😀", "tab\tand\nline", " leading and  double "):
        ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.unk_token_id not in ids and tokenizer.backend_tokenizer.decode(ids) == text


def test_training_the_tokenizer_sees_only_the_training_side_and_is_done_once(home: Home, root: Path) -> None:
    texts = make_texts(40)
    write_dataset(root / TEXT, train=texts, validation=["zqzqzqzq zqzqzqzq " * 40])
    spec = make_spec(train_tokenizer_vocab_size=340, held_out_split="validation")
    corpus = prepare(spec, home, root)
    assert corpus.vocab_size == 340
    assert "zq" not in load_tokenizer(corpus.tokenizer).get_vocab()
    (folder,) = home.tokenizers.iterdir()
    stamp = (folder / "tokenizer.json").stat().st_mtime_ns
    again = prepare(spec.model_copy(update={"block_tokens": 24}), home, root)
    assert not again.reused and (folder / "tokenizer.json").stat().st_mtime_ns == stamp
    assert tokenizer_fingerprint(again.tokenizer) == tokenizer_fingerprint(corpus.tokenizer)


# --- the floor of the loss ---


def test_unigram_cross_entropy_by_hand() -> None:
    """Train counts 3, 1, 0 become 4, 2, 1 of 7 by adding one; the special token 0 counts on neither side."""
    train, held_out = np.array([50, 3, 1, 0]), np.array([7, 2, 1, 1])
    by_hand = -(2 * np.log(4 / 7) + np.log(2 / 7) + np.log(1 / 7)) / 4
    assert unigram_cross_entropy(train, held_out, np.array([0])) == pytest.approx(by_hand)
    assert train[0] == 50 and held_out[0] == 7, "the counts themselves stay"


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 500)), min_size=2, max_size=30))
def test_unigram_cross_entropy_is_never_below_the_entropy(counts: list[tuple[int, int]]) -> None:
    train, held_out = (np.array(side) for side in zip(*counts, strict=True))
    share = held_out / held_out.sum()
    nothing = np.array([], dtype=int)
    assert unigram_cross_entropy(train, held_out, nothing) >= -(share * np.log(share)).sum() - 1e-9
    # Without anything to learn from, every token is as likely as any other.
    assert unigram_cross_entropy(train * 0, held_out, nothing) == pytest.approx(np.log(len(share)))


def test_the_floor_of_a_corpus_is_that_of_its_counts(home: Home, root: Path) -> None:
    write_dataset(root / TEXT, train=make_texts(40), validation=make_texts(20, seed=5))
    corpus = prepare(make_spec(held_out_split="validation"), home, root)
    tokenizer = load_tokenizer(corpus.tokenizer)
    sides = []
    for side in ("train", "held_out"):
        tokens = np.asarray(TokenBlocks(corpus.folder, side).tokens)
        sides.append(np.bincount(tokens, minlength=corpus.vocab_size))
    expected = unigram_cross_entropy(*sides, np.array(tokenizer.all_special_ids))
    assert corpus.unigram_entropy_nats == pytest.approx(expected)


def test_a_tokenizer_that_cuts_or_pads_by_itself_still_loses_nothing(home: Home, root: Path) -> None:
    """Many tokenizers on the Hub carry the truncation and padding of their own model in `tokenizer.json`."""
    from tokenizers import Tokenizer

    path = str(root / TOKENIZER / "tokenizer.json")
    cutting = Tokenizer.from_file(path)
    cutting.enable_truncation(8)
    cutting.enable_padding(length=12)
    cutting.save(path)
    texts = make_texts(40)
    write_dataset(root / TEXT, train=texts)
    corpus = prepare(make_spec(), home, root)
    assert sorted(read_back(corpus, "train") + read_back(corpus, "held_out")) == sorted(texts)
    pad = load_tokenizer(corpus.tokenizer).pad_token_id
    assert not (TokenBlocks(corpus.folder, "train").tokens == pad).any()


def test_rows_without_text_are_left_out_and_counted(home: Home, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = make_texts(60)
    (root / TEXT).mkdir()
    rows = [{"text": text} for text in texts[:30]] + [{"text": None}, {"other": 1}, {"text": " "}]
    rows += [{"text": text} for text in texts[30:]]
    (root / TEXT / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    corpus = prepare(make_spec(), home, root)
    assert sorted(read_back(corpus, "train") + read_back(corpus, "held_out")) == sorted(texts)
    assert "3 of 63 documents hold no text and are left out, the first is" in caplog.text
    assert "train.jsonl:31" in caplog.text


@pytest.mark.parametrize(
    ("value", "says"), [("\ud800", "is not valid Unicode"), (12, "holds int; allowed: text"), (["a"], "holds list")]
)
def test_a_row_that_holds_no_text_is_named(home: Home, root: Path, value: Any, says: str) -> None:
    (root / TEXT).mkdir()
    rows = [{"text": text} for text in make_texts(20)] + [{"text": value}]
    (root / TEXT / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(
        UserError, match=rf"data set 'ada/tales': .*train\.jsonl:21: column 'text' {says}; .*fix: "
    ) as caught:
        prepare(make_spec(), home, root)
    assert str(caught.value).count("fix:") == 1 and list(home.corpora.iterdir()) == []


def test_a_document_of_txt_is_a_file_or_a_line(home: Home, root: Path) -> None:
    texts = [text.replace("\n", " ").strip() for text in make_texts(60)]
    (root / TEXT).mkdir()
    for number in range(6):
        (root / TEXT / f"{number}.txt").write_text("\n".join(texts[number * 10 : number * 10 + 10]), encoding="utf-8")
    files = prepare(make_spec(held_out_share=0.5), home, root)
    lines = prepare(make_spec(txt_document="line"), home, root)
    assert files.train_documents + files.held_out_documents == 6
    assert sorted(read_back(lines, "train") + read_back(lines, "held_out")) == sorted(texts)
    assert files.corpus_id != lines.corpus_id


def test_bundled_text_takes_no_part_of_a_data_set() -> None:
    for key, value in {"held_out_split": "train", "split": "train[:10]", "config": "a", "txt_document": "line"}.items():
        with pytest.raises(ValueError, match=f"{key} would be ignored by builtin/python_docs; fix: drop it"):
            DataSpec.model_validate({"dataset": "builtin/python_docs", key: value})
