"""A whole experiment that publishes to a Hub, and evaluations of what it published: in today's format and an earlier.

The task has two scored examples in its train split, which every row has to say.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command import TINY, answer, cogito

from tasks.store.files import file_sha256
from tasks.store.home import Home
from tasks.store.records import RunRecord, load_record
from tests.hub_stand_in import ACCOUNT, HubStandIn

pytestmark = [pytest.mark.end_to_end, pytest.mark.prefect]

OVERLAP = "Warning: task mrpc of nyu-mll/glue: validation and train: 2 of the 40 held-out examples (5.0%) are in both"


def write_mrpc(root: Path) -> None:
    """A mirror of MRPC, in which the first two examples of validation stand in train too."""
    folder, paths = root / "nyu-mll/glue", ""
    folder.mkdir(parents=True)
    for split, count in {"train": 500, "validation": 40}.items():
        names = [split if n > 1 else "train" for n in range(count)]
        rows = "".join(f"the {name} fox {n},a {name} river {n},{int(n % 3 > 0)}\n" for n, name in enumerate(names))
        (folder / f"{split}.csv").write_text(f"sentence1,sentence2,label\n{rows}")
        paths += f"  - split: {split}\n    path: {split}.csv\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: mrpc\n  data_files:\n{paths}---\n")


class Lab:
    """A home, a log and a mirror, with a Hub of their own."""

    def __init__(self, folder: Path, hub: HubStandIn) -> None:
        self.folder, self.hub, self.home, self.log = folder, hub, Home(folder / "home"), folder / "log.md"
        write_mrpc(folder / "mirror")
        (folder / "tiny.yaml").write_text(TINY.replace("tasks: [mrpc, stsb]", "tasks: [mrpc]"), encoding="utf-8")

    def command(self, *words: str | Path) -> Any:
        """The JSON answer of a command that has no terminal to ask a question at."""
        options = ["--data-root", self.folder / "mirror", "--log", self.log, "--json", "--set", "evaluation.data=hub"]
        more = self.hub.environment(self.folder) | {"COGITO_SERVER": "off"}
        done = cogito(*words, *options, home=self.home.root, **more)
        assert done.returncode == 0, done.stderr
        return answer(done)

    def record(self, result: Any) -> RunRecord:
        return load_record(self.home.run(result["run_id"]))

    def row(self, result: Any) -> str:
        (row,) = [line for line in self.log.read_text().splitlines() if result["run_id"] in line]
        return row


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with HubStandIn() as hub:
        yield Lab(tmp_path_factory.mktemp("lab"), hub)


@pytest.fixture(scope="module")
def run(lab: Lab) -> Any:
    return lab.command("run", "tiny.yaml", "--set", "publish.store=hub")


def test_the_scores_reach_the_card_by_one_more_commit(lab: Lab, run: Any) -> None:
    record, repo = lab.record(run), lab.hub.repos[f"{ACCOUNT}/{run['run_id']}"]
    assert record.publishing is not None and record.publishing.store == "hub"
    _, published, renewed = repo.commits  # the first is the empty repository
    assert record.publishing.revision == published[0] and repo.tags == {run["run_id"]: published[0]}
    changed = {name for name in renewed[1] if renewed[1][name] != published[1].get(name)}
    assert changed == {"README.md", "summary.png", "manifest.json"} and renewed[1].keys() == published[1].keys()
    assert lab.hub.count("PUT", "/large/") == 1, "the weights travelled once"
    (score,) = [score for score in record.scores if score.primary]
    assert score.task == "mrpc" and score.n == 40 and score.value is not None
    assert b"## Scores" not in published[1]["README.md"] and b"model-index" not in published[1]["README.md"]
    card = renewed[1]["README.md"].decode()
    assert f"| mrpc | f1 | {score.value:.3f}" in card and "model-index" in card
    again = lab.command("run", "tiny.yaml", "--set", "publish.store=hub")
    assert again["run_id"] == run["run_id"] and len(repo.commits) == 3, "nothing is left to say"


def test_scored_examples_in_train_are_in_the_row_of_the_training(lab: Lab, run: Any) -> None:
    (warning,) = lab.record(run).task_warnings
    assert f"Warning: {warning}." in lab.row(run) and f"Warning: {warning}".startswith(OVERLAP)


def test_a_folder_of_an_earlier_format_gets_the_scores_of_today_s(lab: Lab, run: Any) -> None:
    files = lab.hub.repos[f"{ACCOUNT}/{run['run_id']}"].commits[-1][1]
    old = lab.folder / "old"
    old.mkdir()
    for name, content in files.items():
        if name not in (".gitattributes", "manifest.json"):
            (old / name).write_bytes(content)
    config = json.loads((old / "config.json").read_text())
    config["decoder"] = config.pop("decoder_type")  # its name until it hid transformers' own `decoder`
    (old / "config.json").write_text(json.dumps(config))
    for name in ("modules.json", "sentence_bert_config.json", "summary.png"):
        (old / name).unlink()
    for path in old.glob("*.py"):
        path.write_text("raise RuntimeError('the code of a checkpoint was run')\n")
    settings = json.loads((old / "tokenizer_config.json").read_text())
    del settings["model_max_length"]
    (old / "tokenizer_config.json").write_text(json.dumps(settings))

    records = [lab.record(result) for result in (run, lab.command("evaluate", old, "--tasks", "mrpc"))]
    shown = [[(score.metric, score.value, score.interval, score.n) for score in record.scores] for record in records]
    assert shown[0] == shown[1] and len(shown[0]) == 2
    tables = [pq.read_table(record.cells[0].predictions["mrpc"]).to_pylist() for record in records]
    assert tables[0] == tables[1] and len(tables[0]) == 40
    assert {cell.loaded_weights for record in records for cell in record.cells} == {records[0].cells[0].loaded_weights}
    assert records[0].analysis is not None and records[1].analysis is not None
    assert records[0].analysis.figures == records[1].analysis.figures
    evaluated = records[1]
    assert (evaluated.kind, evaluated.status) == ("evaluation", "complete")
    assert OVERLAP in lab.row({"run_id": evaluated.run_id}), "as in the row of the training"
    assert evaluated.checkpoint is not None
    assert evaluated.checkpoint.weights_sha256 == file_sha256(old / "model.safetensors")
