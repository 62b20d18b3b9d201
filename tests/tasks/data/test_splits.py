"""What is read of a data set is what is written in its files: text as it stands, all files, or one message."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.sources import find_dataset
from tasks.data.splits import Split, open_split
from tasks.errors import UserError
from tasks.store.home import Home

NAME = "lab/texts"


def write(root: Path, files: Mapping[str, str | bytes], card: str = "") -> Path:
    folder = root / NAME
    own = {"README.md": f"---\n{card}---\n"} if card else {}
    for name, content in (own | dict(files)).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def opened(home: Home, root: Path, split: str = "train", config: str | None = None, **more: Any) -> Split:
    return open_split(find_dataset(NAME, home, root), config, split, more.pop("columns", ["text"]), home, **more)


def texts(home: Home, root: Path, split: str = "train", **more: Any) -> list[Any]:
    return [row["text"] for _, row in opened(home, root, split, **more)]


def refusal(home: Home, root: Path, split: str = "train", **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        texts(home, root, split, **more)
    message = str(caught.value)
    assert message.startswith(f"data set {NAME!r}: ") and "\n" not in message and message.count("fix:") == 1, message
    return message


# --- text as it stands ---

CELLS = [
    "NA",
    "None",
    "null",
    "nan",
    "NaN",
    "",
    "007",
    "1e5",
    "TRUE",
    "2024-01-01",
    "1.50",
    "-",
    " padded ",
    "N/A",
    "\\N",
]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "csv.gz", "parquet"])
def test_cells_that_look_like_another_type_are_text(home: Home, tmp_path: Path, suffix: str) -> None:
    rows = [{"label": str(number % 2), "text": cell} for number, cell in enumerate(CELLS)]
    separator = "\t" if suffix == "tsv" else ","
    table = "".join(separator.join(row.values()) + "\n" for row in [{"a": "label", "b": "text"}, *rows])
    contents: dict[str, bytes] = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "json": json.dumps(rows, indent=1).encode(),
        "csv.gz": gzip.compress(table.encode()),
    }
    folder = write(tmp_path, {f"train.{suffix}": contents.get(suffix, table.encode())})
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    assert texts(home, tmp_path) == CELLS


@settings(max_examples=30)
@given(
    cells=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=6)
)
def test_any_text_comes_back_from_csv_and_json(tmp_path_factory: pytest.TempPathFactory, cells: list[str]) -> None:
    import csv
    import io

    root = tmp_path_factory.mktemp("any")
    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("text", "n"), *((cell, n) for n, cell in enumerate(cells))])
    write(root, {"train.csv": file.getvalue()})
    assert texts(Home(root / "home"), root) == cells
    (root / NAME / "train.csv").unlink()
    write(root, {"train.jsonl": "".join(json.dumps({"text": cell}) + "\n" for cell in cells)})
    assert texts(Home(root / "home"), root) == cells


def test_a_tsv_has_no_quoting(home: Home, tmp_path: Path) -> None:
    """A quote that is never closed swallows rows where it opens a field, as in GLUE's files."""
    write(tmp_path, {"train.tsv": 'text\tlabel\n"Hello" he said\t1\n"open\t0\nx"\t1\nplain "\t0\n'})
    assert texts(home, tmp_path) == ['"Hello" he said', '"open', 'x"', 'plain "']


def test_a_tsv_that_may_be_quoted_has_to_say_so(home: Home, tmp_path: Path) -> None:
    content = 'text\tlabel\n"he said ""no"""\t1\n'
    write(tmp_path, {"train.tsv": content})
    assert "train.tsv:2: may be quoted or may hold quotes" in refusal(home, tmp_path)
    for quoting, text in {1: 'he said "no"', 3: '"he said ""no"""'}.items():
        write(
            tmp_path,
            {"train.tsv": content},
            card=f"configs:\n- config_name: default\n  data_files: train.tsv\n  quoting: {quoting}\n",
        )
        assert texts(home, tmp_path) == [text]


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", 'text,n\r\n"a\r\nb",1\r\nc,2\r\n'),
        ("train.jsonl", '{"text": "a\\r\\nb"}\r\n\r\n{"text": "c"}\r\n'),
    ],
)
def test_marks_and_line_ends(home: Home, tmp_path: Path, mark: bytes, name: str, content: str) -> None:
    write(tmp_path, {name: mark + content.encode()})
    assert texts(home, tmp_path) == ["a\r\nb", "c"]


@pytest.mark.parametrize("name", ["train.csv", "train.tsv", "train.txt", "train.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_other_encodings_are_refused(home: Home, tmp_path: Path, name: str, encoding: str) -> None:
    word = "cafe" if encoding == "utf-16-le" else "caf\xe9"  # reads as UTF-8 with a NUL after every letter
    content = {"train.jsonl": f'{{"text": "{word}"}}\n'}.get(name, f"text\n{word} x\n")
    write(tmp_path, {name: content.encode(encoding)})
    message = refusal(home, tmp_path)
    assert name in message and "UTF-8" in message


def test_an_encoding_that_the_readme_states_is_taken(home: Home, tmp_path: Path) -> None:
    card = "configs:\n- config_name: default\n  data_files: train.csv\n  encoding: utf-16\n"
    write(tmp_path, {"train.csv": "text,n\ncaf\xe9,1\n".encode("utf-16")}, card)
    assert texts(home, tmp_path) == ["caf\xe9"]


REFUSED: dict[str, tuple[dict[str, str | bytes], str, str]] = {
    "a header with a name twice": ({"train.csv": "text,text\na,b\n"}, "", "train.csv:1: the header says a name twice"),
    "a key twice in a row": (
        {"train.jsonl": '{"text": "a", "text": "b"}\n'},
        "",
        "train.jsonl:1: is not JSON (an object",
    ),
    "a key twice in a list": ({"train.json": '[{"text": "a", "text": "b"}]'}, "", "says a key twice: text, text"),
    "a quote within a cell": ({"train.csv": 'text,n\n"a" b,1\n'}, "", "train.csv: cannot be read"),
    "a quote that never ends": ({"train.csv": 'text,n\n"a,1\nb,2\n'}, "", "train.csv: cannot be read"),
    "a cut archive": ({"train.csv.gz": gzip.compress(b"text\nabc\n" * 99)[:-9]}, "", "train.csv.gz: cannot be read"),
    "an archive that is none": ({"train.csv.gz": b"text\nabc\n"}, "", "train.csv.gz: cannot be read"),
    "a cut row": ({"train.jsonl": '{"text": "a"}\n{"tex": 1'}, "", "train.jsonl:2: is not JSON"),
    "another format beside it": ({"a.csv": "text\na\n", "b.jsonl": "{}"}, "", "1 of its files would not be read"),
    "a second format and a README that lists none": (
        {"a.csv": "text\na\n", "b.parquet": "x"},
        "license: mit\n",
        "1 of its files would not be read, the first is ",
    ),
    "a file of no split": (
        {"train.txt": "a\n", "more.txt": "b\n"},
        "",
        "the first is more.txt; read: .txt of the splits train",
    ),
    "tables of two kinds": (
        {"a.csv": "text\na\n", "b.tsv": "text\nb\n"},
        "configs:\n- config_name: a\n  data_files: ['a.csv', 'b.tsv']\n",
        "several formats: .csv, .tsv",
    ),
    "shards of two uploads": (
        {f"train-0000{n}-of-0000{total}.csv": "text\na\n" for n, total in [(0, 2), (1, 2), (0, 1)]},
        "",
        "train-*: shards of 1 and 2 would all be read",
    ),
    "a file packed and unpacked": (
        {"train.csv": "text\na\n", "train.csv.gz": gzip.compress(b"text\na\n")},
        "",
        "train.csv.gz: stands there unpacked too",
    ),
    "a missing shard": ({"train-00000-of-00002.csv": "text\na\n"}, "", "1 of 2 shards are there"),
    "a file outside": (
        {"../other/train.csv": "text\na\n"},
        "configs:\n- config_name: a\n  data_files: ../other/train.csv\n",
        "outside the data set's folder",
    ),
    "an unknown option": (
        {"train.csv": "text\na\n"},
        "configs:\n- config_name: a\n  data_files: train.csv\n  decimal: ','\n",
        "its README states decimal",
    ),
    "paragraphs": (
        {"train.txt": "a\n"},
        "configs:\n- config_name: a\n  data_files: train.txt\n  sample_by: paragraph\n",
        "data.txt_document",
    ),
    "a script": ({"texts.py": "import datasets\n"}, "", "has a loading script, texts.py"),
    "saved to disk": ({"data-00000-of-00001.arrow": b"x", "state.json": "{}"}, "", "of the kind arrow"),
    "no data": ({"notes.rst": b"x"}, "", "fix: mirror the data set again"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(home: Home, tmp_path: Path, case: str) -> None:
    files, card, says = REFUSED[case]
    write(tmp_path, files, card)
    assert says in refusal(home, tmp_path)


def test_a_readme_that_counts_more_rows(home: Home, tmp_path: Path) -> None:
    info = (
        "dataset_info:\n  features:\n  - name: text\n    dtype: string\n  splits:\n  - name: train\n    num_bytes: 9\n"
    )
    folder = write(tmp_path, {}, f"{info}    num_examples: 3\n")
    pq.write_table(pa.table({"text": ["a", "b"]}), folder / "train.parquet")
    assert "split train has 2 rows, its README states 3" in refusal(home, tmp_path)
    write(tmp_path, {}, f"{info}    num_examples: 2\n")
    assert texts(home, tmp_path) == ["a", "b"]


# --- .txt ---


def test_a_folder_of_txt_is_a_document_a_file(home: Home, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "a.txt": b"\xef\xbb\xbfone\r\ntwo\x0c\xe2\x80\xa8three\n",
        "b/c.txt.gz": gzip.compress(b"four\n"),
        "empty.txt": "",
        ".hidden.txt": "hidden",
        ".git/x.txt": "hidden",
        "__cache/x.txt": "hidden",
    }
    write(tmp_path, files)
    assert texts(home, tmp_path) == ["one\ntwo\x0c\u2028three\n", "four\n", ""]
    assert texts(home, tmp_path, documents="line") == ["one", "two\x0c\u2028three", "four"]


def test_documents_of_txt_mean_nothing_elsewhere(home: Home, tmp_path: Path) -> None:
    write(tmp_path, {"train.csv": "text\na\n"})
    assert "data.txt_document would be ignored: its files are csv" in refusal(home, tmp_path, documents="line")


# --- configurations, splits, columns, slices ---

TWO = "configs:\n- config_name: mrpc\n  data_files: x.csv\n- config_name: stsb\n  data_files: y.csv\n"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "has several configurations; fix: set data.config to one of: mrpc, stsb"),
        ("mprc", "unknown configuration 'mprc': did you mean 'mrpc'? allowed: mrpc, stsb; fix: "),
    ],
)
def test_configurations(home: Home, tmp_path: Path, config: str | None, says: str) -> None:
    write(tmp_path, {"x.csv": "text,n\na,1\n", "y.csv": "text,n\nb,1\n"}, TWO)
    assert says in refusal(home, tmp_path, config=config)
    assert texts(home, tmp_path, config="stsb") == ["b"]


def test_splits_and_columns(home: Home, tmp_path: Path) -> None:
    write(tmp_path, {"train.csv": "text,n\na,1\n", "test.csv": "text,n\nb,1\n"})
    assert "unknown split 'tets': did you mean 'test'? allowed: test, train" in refusal(home, tmp_path, "tets")
    assert "unknown column 'txt': did you mean 'text'? allowed: n, text" in refusal(home, tmp_path, columns=["txt"])
    assert "allowed: such as train[:1000]" in refusal(home, tmp_path, "train[a:b]")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_slices(home: Home, tmp_path: Path, suffix: str) -> None:
    folder = write(tmp_path, {"test.csv": "text,n\nt,1\n"} if suffix == "csv" else {"README.md": "-"})
    cells = [f"t{number}" for number in range(10)]
    for number, part in enumerate((cells[:4], cells[4:])):
        name = f"train-0000{number}-of-00002.{suffix}"
        if suffix == "csv":
            (folder / name).write_text("text,n\n" + "".join(f"{cell},1\n" for cell in part))
        else:
            pq.write_table(pa.table({"text": part}), folder / name)
    assert texts(home, tmp_path, "train[:50%]") == cells[:5]
    assert texts(home, tmp_path, "train[-3:]") == cells[-3:]
    assert texts(home, tmp_path, "train[2:4]+train[8:]") == [*cells[2:4], *cells[8:]]
    first, second = opened(home, tmp_path, "train[:5]"), opened(home, tmp_path, "train[5:]")
    assert not first.overlaps(second) and first.overlaps(opened(home, tmp_path, "train[4:]"))
    assert first.overlaps(opened(home, tmp_path)) and (first.count(), second.count()) == (5, 5)


def test_a_readme_that_lists_its_files_may_leave_out_others(home: Home, tmp_path: Path) -> None:
    files = {"a.csv": "text,n\na,1\n", "raw/b.csv": "text,n\nb,1\n", "raw/c.parquet": "x"}
    write(tmp_path, files, "configs:\n- config_name: default\n  data_files: a.csv\n")
    assert texts(home, tmp_path) == ["a"]


def test_a_revision_of_a_folder_cannot_be_known(home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, {"a.csv": "text,n\na,1\n"})
    find_dataset(NAME, home, tmp_path, "v1")
    assert "whether it is revision v1 is not known" in caplog.text


def test_class_names_of_a_readme(home: Home, tmp_path: Path) -> None:
    feature = (
        "  - name: n\n    dtype:\n      class_label:\n        names:\n          '0': different\n          '1': 1\n"
    )
    card = f"dataset_info:\n  features:\n  - name: text\n    dtype: string\n{feature}"
    write(tmp_path, {"a.csv": "text,n\na,1\n"}, card)
    assert opened(home, tmp_path).label_names == {"n": ["different", "1"]}


def test_a_parquet_column_that_stands_twice_is_refused(home: Home, tmp_path: Path) -> None:
    folder = write(tmp_path, {})
    folder.mkdir(parents=True)
    columns = [pa.array(["one"]), pa.array(["another"]), pa.array([1])]
    pq.write_table(pa.table(columns, names=["text", "text", "n"]), folder / "train.parquet")
    assert "column 'text' twice" in refusal(home, tmp_path)
    assert [row["n"] for _, row in opened(home, tmp_path, columns=["n"])] == [1]
