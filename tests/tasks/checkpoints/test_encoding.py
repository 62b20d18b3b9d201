"""Texts to concept vectors: the same as the encoder by hand, in order, streamed, and in files that read back."""

import csv
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command import cogito
from safetensors import safe_open
from safetensors.torch import load_file

from models import load_encoder
from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from models.configuration import ConceptConfig
from models.text_encoder import WINDOW_BATCHES, TextEncoder
from tasks.checkpoints import encoding
from tasks.checkpoints.encoding import EncodeOptions, encode_file
from tasks.data.corpus import load_tokenizer, train_tokenizer
from tasks.data.text_files import open_texts
from tasks.errors import UserError
from tasks.store.home import Home

CONCEPTS, WIDTH, POSITIONS = 4, 16, 24
WORDS = [
    "the",
    "small",
    "river",
    "runs",
    "past",
    "an",
    "old",
    "mill",
    "and",
    "under",
    "a",
    "bridge",
    "of",
    "grey",
    "stone",
]
# Of many lengths, none longer than the positions.
TEXTS = [" ".join(WORDS[number % 3 : number % 3 + 1 + number * 5 % 7]) + f" {number}" for number in range(45)]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights and a tokenizer whose file asks to cut at 4 tokens."""
    folder = tmp_path_factory.mktemp("place") / "checkpoint"
    train_tokenizer(iter(TEXTS * 3), 400, folder)
    stated = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    stated["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (folder / "tokenizer.json").write_text(json.dumps(stated), encoding="utf-8")
    torch.manual_seed(0)
    config = ConceptConfig(
        vocab_size=len(load_tokenizer(folder)),
        hidden_size=WIDTH,
        num_concepts=CONCEPTS,
        num_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_sequence_length=POSITIONS,
    )
    save_checkpoint(ConceptModelForMaskedLM(config), folder)
    return folder


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> TextEncoder:
    return load_encoder(checkpoint, device="cpu")


def by_hand(checkpoint: Path, text: str, length: int = POSITIONS) -> torch.Tensor:
    """The concepts [C, H] of one text alone, without padding."""
    tokenizer = load_tokenizer(checkpoint)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][: length - 2]
    ids = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
    with torch.no_grad():
        return load_checkpoint(checkpoint).get_submodule("encoder")(torch.tensor([ids]))[0]


def test_every_text_gets_the_vectors_that_it_gets_alone_by_hand(checkpoint: Path, encoder: TextEncoder) -> None:
    """Order, padding and the tokenizer file's own cutting, all at once: batches mix lengths and windows mix batches."""
    found = encoder.encode(TEXTS, batch_size=4)
    assert found.shape == (len(TEXTS), CONCEPTS, WIDTH) and found.dtype == torch.float32 and not found.requires_grad
    expected = torch.stack([by_hand(checkpoint, text) for text in TEXTS])
    assert (expected[1:] - expected[:-1]).abs().amax(dim=(1, 2)).min() > 1e-3, "texts that cannot be told apart"
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_neighbours_do_not_matter(encoder: TextEncoder) -> None:
    alone = encoder.encode(["mill"])
    among = encoder.encode(["mill", " ".join(WORDS)], batch_size=2)
    torch.testing.assert_close(among[:1], alone, atol=1e-5, rtol=0)


def test_pooling_is_the_mean_over_concepts(encoder: TextEncoder) -> None:
    torch.testing.assert_close(encoder.encode(TEXTS, pool="mean"), encoder.encode(TEXTS).mean(dim=1))


def test_nothing_is_an_empty_answer(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, CONCEPTS, WIDTH)
    assert encoder.encode([], pool="mean").shape == (0, WIDTH)
    assert encoder.encode([""]).isfinite().all()


def test_long_texts_are_cut_and_said_once(
    checkpoint: Path, encoder: TextEncoder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("cogito"), "propagate", True)
    long = " ".join(WORDS * 4)
    with caplog.at_level(logging.WARNING):
        found = encoder.encode([long, "mill", long] * 30, batch_size=2)
    assert [record.getMessage() for record in caplog.records] == [f"60 of 90 texts were cut to {POSITIONS} tokens"]
    torch.testing.assert_close(found[0], by_hand(checkpoint, long), atol=1e-5, rtol=0)
    shorter = encoder.encode([long], max_length=8)
    torch.testing.assert_close(shorter[0], by_hand(checkpoint, long, 8), atol=1e-5, rtol=0)
    caplog.clear()
    encoder.encode(["mill"])
    assert not caplog.records


def test_a_stream_reads_no_more_than_a_window_ahead(encoder: TextEncoder) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"mill {read}"

    got = 0
    stream = encoder.stream(endless(), batch_size=2, pool="mean")
    assert read == 0
    for _ in range(3 * WINDOW_BATCHES):
        got += len(next(stream))
        assert got <= read <= got + 2 * WINDOW_BATCHES


def test_the_model_is_in_eval_mode_whatever_it_was(checkpoint: Path, encoder: TextEncoder) -> None:
    other = TextEncoder(load_checkpoint(checkpoint).train(), load_tokenizer(checkpoint), "cpu")
    assert torch.equal(other.encode(TEXTS), encoder.encode(TEXTS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "mill"}, "one str"),
        ({"texts": ["mill", None]}, "number 1 is of type NoneType"),
        ({"texts": ["mill"], "pool": "max"}, "allowed: 'mean'"),
        ({"texts": ["mill"], "batch_size": 0}, "batch_size: got 0"),
        ({"texts": ["mill"], "max_length": 2}, "allowed: 3 to"),
        ({"texts": ["mill"], "max_length": POSITIONS + 1}, f"got {POSITIONS + 1}"),
    ],
)
def test_arguments_that_are_refused(encoder: TextEncoder, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.encode(**arguments)


def test_a_tokenizer_that_does_not_fit(checkpoint: Path, tmp_path: Path) -> None:
    train_tokenizer(iter(f"{word}{number}" * 3 for word in WORDS for number in range(200)), 900, tmp_path / "larger")
    with pytest.raises(CheckpointError, match="the model knows"):
        load_encoder(checkpoint, tmp_path / "larger")
    (tmp_path / "none").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_encoder(checkpoint, tmp_path / "none")


def write_texts(path: Path, texts: list[str]) -> Path:
    """The texts in the format of the suffix, beside another column where there are columns."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"label": list(range(len(texts))), "text": texts}), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("label", "text"), *enumerate(texts)])
    elif path.suffix == ".jsonl":
        rows = [json.dumps({"label": number, "text": text}) for number, text in enumerate(texts)]
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    else:
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".parquet"])
def test_every_input_format(home: Home, tmp_path: Path, checkpoint: Path, encoder: TextEncoder, suffix: str) -> None:
    texts = ["2024-01-01", *TEXTS, "", "NA", "12", 'a "quoted, thing"', "grüner Fluß"]
    source, output = write_texts(tmp_path / f"texts{suffix}", texts), tmp_path / "out" / "vectors.safetensors"
    seen: list[tuple[int, int | None]] = []
    options = EncodeOptions(pool="mean")
    done = encode_file(
        str(checkpoint), source, output, home, options=options, progress=lambda *figures: seen.append(figures)
    )
    assert (done.texts, done.shape) == (len(texts), (WIDTH,))
    assert seen[-1] == (len(texts), len(texts) if suffix == ".parquet" else None)
    assert torch.equal(load_file(output)["vectors"], encoder.encode(texts, pool="mean"))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_text_that_looks_like_another_type_stays_text(tmp_path: Path, suffix: str) -> None:
    """Readers that guess types turn dates into timestamps and numbers into other spellings."""
    for texts in (["2024-01-01", "2024-01-02 10:00:00"], ["007", "1.50"], ["true", "null"]):
        read, _ = open_texts(write_texts(tmp_path / f"texts{suffix}", texts), "text")
        assert list(read) == texts


@pytest.mark.parametrize("pool", ["none", "mean"])
def test_parquet_reads_back(
    home: Home, tmp_path: Path, checkpoint: Path, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    monkeypatch.setattr(encoding, "ROW_GROUP_BYTES", 8 * WIDTH * 4)
    source, output = write_texts(tmp_path / "texts.txt", TEXTS), tmp_path / "vectors.parquet"
    encode_file(str(checkpoint), source, output, home, options=EncodeOptions(pool=pool, batch_size=4))
    expected = encoder.encode(TEXTS, batch_size=4, pool=None if pool == "none" else "mean")
    assert pq.read_metadata(output).num_row_groups > 3
    table = pq.read_table(output)
    assert table["index"].to_pylist() == list(range(len(TEXTS)))
    assert table.schema.field("vector").type == pa.list_(pa.float32(), expected[0].numel())
    shape = json.loads(table.schema.metadata[b"shape"])
    assert shape == list(expected.shape[1:])
    assert torch.equal(torch.tensor(table["vector"].to_pylist()).view(-1, *shape), expected)


def test_safetensors_reads_back(home: Home, tmp_path: Path, checkpoint: Path, encoder: TextEncoder) -> None:
    source, output = write_texts(tmp_path / "texts.txt", TEXTS), tmp_path / "vectors.safetensors"
    encode_file(str(checkpoint), source, output, home, options=EncodeOptions(batch_size=4))
    assert torch.equal(load_file(output)["concepts"], encoder.encode(TEXTS, batch_size=4))
    with safe_open(output, "pt") as file:
        assert json.loads(file.metadata()["shape"]) == [CONCEPTS, WIDTH]
        assert file.metadata()["checkpoint"] == checkpoint.name
    with pytest.raises(UserError, match="--overwrite"):
        encode_file(str(checkpoint), source, output, home)
    encode_file(str(checkpoint), write_texts(source, TEXTS[:3]), output, home, options=EncodeOptions(overwrite=True))
    assert len(load_file(output)["concepts"]) == 3


@pytest.mark.parametrize("suffix", [".parquet", ".safetensors"])
def test_an_interrupted_run_leaves_what_was_there(home: Home, tmp_path: Path, checkpoint: Path, suffix: str) -> None:
    source, output = write_texts(tmp_path / "texts.txt", TEXTS), tmp_path / f"vectors{suffix}"
    output.write_text("old", encoding="utf-8")

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_file(
            str(checkpoint),
            source,
            output,
            home,
            options=EncodeOptions(batch_size=4, overwrite=True),
            progress=interrupt,
        )
    assert output.read_text(encoding="utf-8") == "old"
    assert {path.name for path in tmp_path.iterdir()} == {source.name, output.name, home.root.name}


BAD_FILES = {
    "a row without the column": ("t.jsonl", '{"text": "mill"}\n{"txt": "mill"}\n', "t.jsonl:2: unknown column 'text'"),
    "a row without text": ("t.jsonl", '{"text": "mill"}\n{"text": null}\n', "t.jsonl:2.*holds nothing"),
    "half a pair of surrogates": ("t.jsonl", '{"text": "\\ud800"}\n', "not valid Unicode"),
    "no JSON": ("t.jsonl", "mill\n", "t.jsonl:1: is not JSON"),
    "no object": ("t.jsonl", "[1]\n", "t.jsonl: row 1: is not a JSON object"),
    "a comma too many": ("t.csv", "label,text\n1,mill, old\n", "t.csv:2: has 3 fields, the header 2"),
    "a field too few": ("t.csv", "label,text\n1\n", "t.csv:2: has 1 fields, the header 2"),
    "a quote that never ends": ("t.csv", 'text\n"mill\n', "t.csv: cannot be read"),
    "another encoding": ("t.txt", b"\xff\xfe\x00m", "t.txt: cannot be read"),
    "no Parquet": ("t.parquet", "mill", "t.parquet: cannot be read"),
    "nothing": ("t.txt", "", "holds no text"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_are_refused(home: Home, tmp_path: Path, checkpoint: Path, case: str) -> None:
    name, content, message = BAD_FILES[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        encode_file(str(checkpoint), tmp_path / name, tmp_path / "vectors.parquet", home)
    assert not list(tmp_path.glob("*vectors*")) and not list(tmp_path.glob(".*"))


def test_outputs_that_are_refused(home: Home, tmp_path: Path, checkpoint: Path) -> None:
    source = write_texts(tmp_path / "texts.parquet", TEXTS)
    (tmp_path / "folder.parquet").mkdir()
    for output, message in {source: "the input itself", tmp_path / "folder.parquet": "is a folder"}.items():
        with pytest.raises(UserError, match=message):
            encode_file(str(checkpoint), source, output, home, options=EncodeOptions(overwrite=True))
    with pytest.raises(UserError, match="cannot be written"):
        encode_file(str(checkpoint), source, source / "vectors.parquet", home)
    with pytest.raises(UserError, match="max_length: got 2"):
        encode_file(str(checkpoint), source, tmp_path / "vectors.parquet", home, options=EncodeOptions(max_length=2))


@pytest.mark.end_to_end
def test_the_command(tmp_path: Path, checkpoint: Path, encoder: TextEncoder) -> None:
    write_texts(tmp_path / "texts.csv", TEXTS)
    arguments = ["encode", checkpoint, "texts.csv", "--output", "vectors.safetensors", "--pool", "mean"]
    done = cogito(*arguments, "--max-length", "8", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert "45 texts" in done.stdout and "were cut to 8 tokens" in done.stderr
    expected = encoder.encode(TEXTS, pool="mean", max_length=8)
    torch.testing.assert_close(load_file(tmp_path / "vectors.safetensors")["vectors"], expected, atol=1e-5, rtol=0)


BAD_COMMANDS = {
    "missing file": (["absent.txt", "--output", "out.parquet"], ["absent.txt", "not a file"]),
    "wrong column": (
        ["texts.csv", "--column", "txt", "--output", "out.parquet"],
        ["'txt'", "did you mean 'text'", "label, text"],
    ),
    "unknown input": (
        ["texts.docx", "--output", "out.parquet"],
        [".docx", ".csv, .json, .jsonl, .ndjson, .parquet, .tsv, .txt"],
    ),
    "unknown output": (["texts.csv", "--output", "out.npy"], [".npy", ".parquet, .safetensors"]),
    "unknown pool": (["texts.csv", "--output", "out.parquet", "--pool", "max"], ["'max'", "mean, none"]),
    "existing output": (["texts.csv", "--output", "there.parquet"], ["there.parquet", "--overwrite"]),
    "missing checkpoint": (["texts.csv", "--output", "out.parquet"], ["absent"]),
}


@pytest.mark.end_to_end
@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_commands_that_are_refused(tmp_path: Path, checkpoint: Path, case: str) -> None:
    arguments, expected = BAD_COMMANDS[case]
    write_texts(tmp_path / "texts.csv", TEXTS)
    (tmp_path / "there.parquet").write_text("old", encoding="utf-8")
    name = "absent" if case == "missing checkpoint" else checkpoint
    done = cogito("encode", name, *arguments, home=tmp_path / "home")
    assert done.returncode == 2, done.stderr
    assert all(text in done.stderr for text in expected), done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert not list(tmp_path.glob("*out*")) and (tmp_path / "there.parquet").read_text(encoding="utf-8") == "old"
