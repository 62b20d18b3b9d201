"""Which inputs of an experiment are not on this machine, told at once: no network is used and no content is read.

A missing one is no mistake, since a run fetches it from the Hub; but a mistyped name looks the same until then.
"""

import re
from collections import Counter
from difflib import get_close_matches
from pathlib import Path

from tasks.data.hub import hub_offline
from tasks.data.sources import is_downloaded, local_folder, visible_files
from tasks.data.text_files import TEXT_FORMATS, file_format
from tasks.spec.benchmarks import TASKS
from tasks.spec.experiment import ExperimentSpec
from tasks.store.home import Home, user_path
from tasks.store.run_names import run_called

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")


def missing_inputs(spec: ExperimentSpec, home: Home, data_root: Path | None) -> list[str]:
    """A warning for each data set, tokenizer and checkpoint that a run would have to fetch, or could not find."""
    data, start = spec.data, spec.training.init_from
    wanted = {} if data.is_builtin else {data.dataset: "data.dataset"}
    if spec.evaluation.data == "hub":
        for name in spec.evaluation.tasks:
            wanted.setdefault(TASKS[name].dataset, f"task {name}")
    if data.train_tokenizer_vocab_size is None:
        wanted.setdefault(data.tokenizer_name, "data.tokenizer")
    missing = {
        name: where
        for name, where in wanted.items()
        if local_folder(name, data_root) is None and not is_downloaded(name, home)
    }
    if start is not None and not _has_checkpoint(start, home, data_root):
        missing[start] = "training.init_from"
    return [f"{where}: {name!r} {_absence(name, data_root)}" for name, where in missing.items()]


def text_documents(spec: ExperimentSpec, data_root: Path | None) -> str | None:
    """What is a document of the pretraining text, if it is a local folder of .txt files; None elsewhere."""
    folder = None if spec.data.is_builtin else local_folder(spec.data.dataset, data_root)
    formats = Counter(file_format(path) for path in visible_files(folder)) if folder else Counter()
    if {name for name in formats if name in TEXT_FORMATS} != {".txt"}:
        return None
    what = "each line" if spec.data.txt_document == "line" else "each file"
    return f"data.dataset: {formats['.txt']:,} .txt files; {what} is a document (data.txt_document)"


def _absence(name: str, data_root: Path | None) -> str:
    if name.startswith(("~", ".")) or not _HUB_ID.fullmatch(name):
        return "is a path, and there is no such folder; fix: correct the path"
    present = (
        [f"{path.parent.name}/{path.name}" for path in data_root.glob("*/*") if path.is_dir()] if data_root else []
    )
    near = get_close_matches(name, present, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    fate = "HF_HUB_OFFLINE forbids to fetch it" if hub_offline() else "the Hub is asked for it when the run starts"
    return f"is neither under the data root nor in the cache: {hint}{fate}"


def _has_checkpoint(name: str, home: Home, data_root: Path | None) -> bool:
    downloaded = Path("cache", "checkpoints", name.partition("@")[0].replace("/", "--"))
    ours = [home.root / place for place in (f"published/{name}", downloaded)]
    if run_called(name, home):
        return True
    return any(place.is_dir() for place in [*ours, user_path(name), *([data_root / name] if data_root else [])])
