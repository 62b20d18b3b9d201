"""CSV files of a mirror: every row fits its header, or one message names the row."""

import gzip
import lzma
from pathlib import Path

import pytest

from tasks.data.sources import find_dataset
from tasks.data.splits import open_split
from tasks.errors import UserError
from tasks.store.home import Home

COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress}


def read(home: Home, root: Path, text: str, name: str = "train.csv", card: str = "") -> list[dict[str, object]]:
    folder = root / "lab/texts"
    folder.mkdir(parents=True)
    content = text.encode()
    (folder / name).write_bytes(COMPRESS.get(Path(name).suffix, bytes)(content))
    if card:
        (folder / "README.md").write_text(f"---\n{card}---\n")
    return [row for _, row in open_split(find_dataset("lab/texts", home, root), None, "train", ["text"], home)]


@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz", "train.csv.xz", "train.tsv"])
@pytest.mark.parametrize(
    ("text", "line", "fields"),
    [
        ("label,text\n1,mill, old\n", 2, 3),
        ("label,text\n1,mill, old\n2,sea, wide\n", 2, 3),
        ("label,text\n\n1,mill\n2,sea, wide\n", 4, 3),
        ("text,label\nmill,1\nsea\n", 3, 1),
        ('text,label\n"mill, old",1\nsea\n', 3, 1),
    ],
)
def test_a_row_that_does_not_fit_its_header_is_named(
    home: Home, tmp_path: Path, name: str, text: str, line: int, fields: int
) -> None:
    text = text.replace(",", "\t") if "tsv" in name else text  # has no quotes that mean anything
    line, fields = (2, 3) if "tsv" in name and '"' in text else (line, fields)
    with pytest.raises(UserError) as caught:
        read(home, tmp_path, text, name)
    message = str(caught.value)
    place = tmp_path / "lab/texts" / name
    assert f"{place}:{line}: has {fields} fields, the header 2; fix: " in message, message
    assert message.count("fix:") == 1 and "\n" not in message


@pytest.mark.parametrize(
    ("text", "card"),
    [
        ('\ufefflabel,text\r\n1,"mill, ""old"""\r\n\r\n', ""),
        ('label,text\n1,"mill, ""old"""\n  \n', ""),
        ('label;text\n1;mill, "old"\n', 'configs:\n- config_name: default\n  data_files: train.csv\n  sep: ";"\n'),
        (
            '# of a mill\nlabel,text\n1,"mill, ""old"""\n',
            "configs:\n- config_name: default\n  data_files: train.csv\n  skiprows: 1\n",
        ),
    ],
)
def test_rows_that_fit_are_read_as_they_stand(home: Home, tmp_path: Path, text: str, card: str) -> None:
    assert read(home, tmp_path, text, card=card) == [{"label": "1", "text": 'mill, "old"'}]
