"""Which files belong to each split of a data set: all that lie there, or one message; none is left out without a word.

datasets is imported late: it takes seconds, and prepared data needs it not at all.
"""

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.data.sources import visible_files
from tasks.data.text_files import OPENERS, TEXT_FORMATS, file_format
from tasks.errors import UserError, unknown_name

log = logging.getLogger("cogito.sources")

# Names of .txt files that tell of a data set and are no part of it.
NOTES = re.compile(
    r"read_?me|licen[cs]es?|copying|copyright|notice|changelog|changes|authors|citations?|contributing|requirements",
    re.IGNORECASE,
)
# Files that `datasets` writes beside the data.
FACTS = ("dataset_infos.json", "dataset_info.json", "state.json")
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)")


def split_files(folder: Path, builder: Any, foreign: bool) -> dict[str, tuple[Path, ...]]:
    """The files of each split, after a look at what else lies there: no file may be left out without a word.

    `foreign` files are those of the Hub, which its user cannot tidy up: a warning has to do.
    """
    found = {
        str(name): tuple(Path(os.path.normpath(path)) for path in paths)
        for name, paths in builder.config.data_files.items()
    }
    used = [path for paths in found.values() for path in paths]
    visible = set(visible_files(folder))
    if hidden := sorted(set(used) - visible):
        raise UserError(f"{hidden[0]}: is hidden or outside the data set's folder; fix: move it into the folder")
    kinds = sorted({file_format(path) for path in used})
    if unknown := set(kinds) - set(TEXT_FORMATS):
        raise UserError(f"{unknown_name('format', min(unknown), TEXT_FORMATS)}; fix: unpack or convert the files")
    if len(kinds) > 1:
        raise UserError(f"has files of several formats: {', '.join(kinds)}; fix: keep one format")
    _check_shards(used)
    stated = _states_configs(folder)
    for problem in [] if stated else [*_joined(found, folder), *_notes(used, folder)]:
        if not foreign:
            raise UserError(
                f"{problem}; fix: move what does not belong there, or list the files in configs of a README.md"
            )
        log.warning("data set %s: %s", folder, problem)
    data = {".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", *kinds}
    unread = sorted(path for path in visible - set(used) if file_format(path) in data and not _is_about_it(path))
    if unread and not stated:
        what = (
            f"{len(unread)} of its files would not be read, the first is {unread[0].relative_to(folder)}; "
            f"read: {', '.join(kinds)} of the splits {', '.join(found)}"
        )
        if not foreign:
            raise UserError(f"{what}; fix: one format, names that begin with the split, or configs in a README")
        log.warning("data set %s: %s", folder, what)
    return found


def _is_about_it(path: Path) -> bool:
    """Whether a file tells of the data set and is no part of it."""
    return path.name in FACTS or _is_note(path)


def _is_note(path: Path) -> bool:
    return file_format(path) == ".txt" and NOTES.fullmatch(path.name.partition(".")[0]) is not None


def _joined(found: dict[str, tuple[Path, ...]], folder: Path) -> Iterator[str]:
    """Files of unlike names that the library joins to one split: it takes `dev` and `val` for one, and `train_old` too.

    Names are alike up to the part that names the split, numbers apart: `train-1.csv`, or whatever lies in `train/`.
    """
    from datasets.data_files import SPLIT_KEYWORDS

    words = {str(split): "|".join(names) for split, names in SPLIT_KEYWORDS.items()}
    for split, paths in found.items():
        named = re.compile(rf"(?:.*?/)??[^/]*(?<![a-z])(?:{words.get(split, split)})(?![a-z])[^/]*", re.IGNORECASE)
        kinds: dict[str, Path] = {}
        for path in paths:
            relative = path.relative_to(folder).as_posix()
            if match := named.match(relative):
                kinds.setdefault(re.sub(r"\d+-of-\d+.*|\d+", "", match[0]), path)
        if len(kinds) > 1:
            first, second = (path.relative_to(folder) for path in [*kinds.values()][:2])
            yield f"{first} and {second} would be read as one split, {split}"


def _notes(files: Sequence[Path], folder: Path) -> Iterator[str]:
    """Notes about a data set that would be read as documents."""
    for path in files:
        if _is_note(path):
            yield f"{path.relative_to(folder)} would be read as a document"


def _states_configs(folder: Path) -> bool:
    """Whether the README of a data set lists its configurations and so the files that belong to it."""
    from huggingface_hub import DatasetCard

    readme = folder / "README.md"
    return readme.is_file() and "configs" in DatasetCard.load(readme, ignore_metadata_errors=True).data.to_dict()


def _check_shards(files: Sequence[Path]) -> None:
    """Refuse a split of which shards are missing, or rows that would be read twice.

    `train-00000-of-00002` may lack its second, or stand beside the `train-00000-of-00001` of an earlier upload; a
    packed file may stand beside its unpacked one.
    """
    present: defaultdict[tuple[Path, str], Counter[int]] = defaultdict(Counter)
    for path in files:
        if path.suffix.lower() in OPENERS and path.with_suffix("") in files:
            raise UserError(f"{path}: stands there unpacked too, and both would be read; fix: keep one of them")
        if match := _SHARD.match(path.name):
            present[path.parent, match[1]][int(match[3])] += 1
    for (folder, name), counts in present.items():
        if len(counts) > 1:
            totals = " and ".join(map(str, sorted(counts)))
            raise UserError(f"{folder / name}-*: shards of {totals} would all be read; fix: keep those of one upload")
        total, count = counts.popitem()
        if count != total:
            raise UserError(f"{folder / name}-*: {count} of {total} shards are there; fix: copy the data set again")
