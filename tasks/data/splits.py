"""The rows of a split of a data set: the datasets library says which files they lie in, and we read these.

The library reads the README of a data set, finds the files of a configuration and the splits they belong to. It is not
asked for rows: it guesses types, and remembers what it read by path and time, so that a file which was replaced with
its old time still gave its old rows. `tasks.data.text_files` reads them instead, from the files at each call.
datasets is imported late: it takes seconds, and prepared data needs it not at all.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.data.hub import is_transient
from tasks.data.sources import Source, download_dataset
from tasks.data.split_files import split_files
from tasks.data.text_files import TEXT_FORMATS, Dialect, Rows, count_rows, file_format, read_rows
from tasks.errors import UserError, unknown_name
from tasks.store.home import Home

# What a README may state about files of each kind (https://huggingface.co/docs/datasets/loading), and we read.
STATED: dict[str, set[str]] = {
    "csv": {
        *("sep", "delimiter", "names", "column_names", "skiprows", "encoding"),
        *("quotechar", "quoting", "doublequote", "escapechar", "skipinitialspace"),
    },
    "json": {"field", "encoding"},
    "parquet": set(),
    "text": {"encoding"},
}
_NO_OPTION = {"name", "version", "data_dir", "data_files", "description"}


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of some files, counted over all of them; `stop` None: to the end."""

    split: str
    files: tuple[Path, ...]
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Split:
    """A split, read anew from its files by each iteration: rows with `columns`, each with its place for messages.

    Attributes:
        label_names: the class names that the data set states for each of its label columns, in the order of their ids.
    """

    name: str
    source: Source
    parts: tuple[Part, ...]
    columns: tuple[str, ...]
    dialect: Dialect
    label_names: dict[str, list[str]]

    def __iter__(self) -> Rows:
        try:
            for part in self.parts:
                yield from islice(_rows(part.files, self.columns, self.dialect), part.start, part.stop)
        except UserError as error:
            raise UserError(f"data set {self.source.name!r}: {error}") from None

    def count(self) -> int | None:
        """The number of rows, where it is known without reading them."""
        counts = [_known_count(part.files) if part.stop is None else part.stop - part.start for part in self.parts]
        return sum(number for number in counts if number is not None) if None not in counts else None

    def overlaps(self, other: "Split") -> bool:
        """Whether both name some rows of one split."""
        ends = {part: float("inf") if part.stop is None else part.stop for part in (*self.parts, *other.parts)}
        return any(
            mine.split == theirs.split and max(mine.start, theirs.start) < min(ends[mine], ends[theirs])
            for mine in self.parts
            for theirs in other.parts
        )


def open_split(
    source: Source, config: str | None, split: str, columns: Sequence[str], home: Home, documents: str | None = None
) -> Split:
    """A split of a data set, such as `train`, `train[:1000]` or `train+validation`.

    Args:
        documents: of .txt files: `file` (the default) or `line`; refused where there are none.

    Raises:
        UserError: the configuration, split or a column does not exist, or the files cannot be read.
    """
    try:
        folder = Path(source.location) if source.revision is None else download_dataset(source, config, home)
        builder = _find_files(folder, config)
        kind = builder.name
        if kind not in STATED:
            raise UserError(f"its files are of the kind {kind}; allowed: {', '.join(TEXT_FORMATS)}; fix: convert them")
        if documents and kind != "text":
            raise UserError(f"data.txt_document would be ignored: its files are {kind}, not .txt; fix: drop it")
        files = split_files(folder, builder, foreign=source.revision is not None)
        dialect = _dialect(builder, documents or "file")
        parts = _parts(split, files, partial(_rows, columns=columns, dialect=dialect))
        for path in {path for part in parts for path in part.files if kind != "text"}:
            next(read_rows(path, columns, dialect), None)  # a wrong column is noticed before anything is read
        _check_counts(builder, parts)
        label_names = _label_names(builder, parts)
    except UserError as error:
        raise UserError(f"data set {source.name!r}: {error}") from None
    return Split(split, source, parts, tuple(columns), dialect, label_names)


def _rows(files: Sequence[Path], columns: Sequence[str], dialect: Dialect) -> Rows:
    return chain.from_iterable(read_rows(path, columns, dialect) for path in files)


def _known_count(files: Sequence[Path]) -> int | None:
    counts = [count_rows(path) for path in files]
    return sum(number for number in counts if number is not None) if None not in counts else None


def _find_files(folder: Path, config: str | None) -> Any:
    """The library's description of a configuration: its kind of files, its options, its splits and their files."""
    import datasets

    datasets.disable_progress_bars()
    path = str(folder)
    try:
        with TemporaryDirectory() as nothing:  # the library would take what an earlier read left in its cache
            return datasets.load_dataset_builder(path, config, cache_dir=nothing)
    except Exception as error:
        if is_transient(error):
            raise  # the stage retries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:600]
        if scripts := sorted(script.name for script in folder.glob("*.py")):
            raise UserError(
                f"has a loading script, {scripts[0]}, which is not run, and no data files that read without it; "
                "fix: mirror it as Parquet, or, for the text of a pretraining, take the Hub's own conversion: "
                "data.revision: refs/convert/parquet"
            ) from None
        try:
            names = datasets.get_dataset_config_names(path)
        except Exception:
            raise UserError(f"{reason}; fix: mirror the data set again, with its README.md") from None
    if config is None:
        raise UserError(f"has several configurations; fix: set data.config to one of: {', '.join(sorted(names))}")
    if config not in names:
        raise UserError(f"{unknown_name('configuration', config, names)}; fix: name one of these")
    raise UserError(f"configuration {config}: {reason}; fix: mirror the data set again, with its README.md")


def _check_counts(builder: Any, parts: Sequence[Part]) -> None:
    """Refuse files with other numbers of rows than their README states."""
    stated = builder.info.splits or {}
    for part in parts:
        expected = stated[part.split].num_examples if part.split in stated else None
        count = _known_count(part.files)
        if expected and count is not None and count != expected:
            raise UserError(
                f"split {part.split} has {count:,} rows, its README states {expected:,}; "
                "fix: copy the data set again, or correct num_examples if a part is meant"
            )


def _dialect(builder: Any, documents: str) -> Dialect:
    """How the files are written, as far as the README says so.

    Raises:
        UserError: it states an option that we do not know: to ignore it would give other rows.
    """
    config = builder.config
    stated = {}
    for option in fields(config):
        default = option.default_factory() if option.default_factory is not MISSING else option.default
        if option.name not in _NO_OPTION and getattr(config, option.name) != default:
            stated[option.name] = getattr(config, option.name)
    allowed = STATED[builder.name]
    if ignored := sorted(set(stated) - allowed):
        hint = "data.txt_document instead" if "sample_by" in ignored else ", ".join(sorted(allowed)) or "none"
        raise UserError(
            f"its README states {', '.join(ignored)}, which is not known here; allowed: {hint}; fix: drop it there, "
            "or write the files anew"
        )
    skipped = stated.get("skiprows", 0)
    if not isinstance(skipped, int):
        raise UserError("its README states skiprows as a list; allowed: a number of lines; fix: write the files anew")
    names = stated.get("names")
    csv_format = {
        key: stated[key] for key in stated if key.startswith(("quot", "doublequote", "escape", "skipinitial"))
    }
    if "sep" in stated:
        csv_format["delimiter"] = stated["sep"]
    return Dialect(
        encoding=stated.get("encoding") or "utf-8",
        documents=documents,
        json_field=stated.get("field"),
        csv_names=tuple(names) if names else None,
        csv_skipped=skipped,
        csv_format=csv_format,
    )


def _parts(split: str, files: dict[str, tuple[Path, ...]], rows: Any) -> tuple[Part, ...]:
    """The rows that a split's name means, such as `train[10%:]+validation`; a slice needs the rows to be counted."""
    import datasets

    names = [piece.partition("[")[0].strip() for piece in split.split("+")]
    for name in names:
        if name not in files:
            raise UserError(f"{unknown_name('split', name, files)}; fix: name one of these")
    if "[" not in split:
        return tuple(Part(name, files[name]) for name in names)
    lengths = {}
    for name in names:
        known = _known_count(files[name])
        lengths[name] = sum(1 for _ in rows(files[name])) if known is None else known
    try:
        slices = datasets.ReadInstruction.from_spec(split).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"split {split!r}: {error}; allowed: such as train[:1000] or train[10%:]; fix: correct it"
        ) from None
    return tuple(Part(one.splitname, files[one.splitname], one.from_, one.to) for one in slices)


def _label_names(builder: Any, parts: Sequence[Part]) -> dict[str, list[str]]:
    """The class names of label columns, from the README and the schema of every Parquet file.

    Raises:
        UserError: they say it differently: the same number would be another class in each.
    """
    import datasets
    from pyarrow.parquet import read_schema

    stated: dict[str, tuple[str, list[str]]] = {}
    files = [path for part in parts for path in part.files if file_format(path) == ".parquet"]
    schemas = ((str(path), datasets.Features.from_arrow_schema(read_schema(path))) for path in files)
    for place, features in [("the README", builder.info.features or {}), *schemas]:
        for column, feature in features.items():
            if isinstance(feature, datasets.ClassLabel):
                names = [str(label) for label in feature.names]  # YAML reads `no` as false
                first, known = stated.setdefault(column, (place, names))
                if names != known:
                    raise UserError(
                        f"{place} numbers the classes of {column} {', '.join(names)}, {first} {', '.join(known)}; "
                        "fix: number them alike in all files"
                    )
    return {column: names for column, (_, names) in stated.items()}
