"""What is refused begins no home: no call from Python and no lookup on the Hub, whatever the refusal."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command import PATIENCE, TINY, environment
from hub_stand_in import Fault, HubStandIn, write_small_checkpoint

from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import save_checkpoint
from models.configuration import ConceptConfig
from tasks.data.corpus import train_tokenizer

# Each with what the message says. The calls run one after the other in one process, as in a notebook.
CALLS = {
    "cogito.load_spec('none.yaml')": "cannot be read",
    "cogito.run_experiment('none.yaml')": "cannot be read",
    "cogito.run_experiment('bad.yaml')": "unknown key",
    "cogito.run_experiment('tiny.yaml', max_hours=-1)": "--max-hours",
    "cogito.run_experiment('tiny.yaml', log='.')": "is a folder",
    "cogito.run_experiment('tiny.yaml', data_root='none')": "not a folder",
    "cogito.run_experiment('tiny.yaml', processes=17)": "global_batch_size",
    "cogito.run_experiment(cogito.load_spec('tiny.yaml', ['data.dataset=no/texts']))": "no/texts",
    "cogito.run_experiment(cogito.load_spec('tiny.yaml', ['training.init_from=none']))": "init_from",
    "cogito.run_experiment(cogito.load_spec('tiny.yaml', ['evaluation.data=hub']))": "nyu-mll/glue",
    "cogito.run_evaluation('none')": "none",
    "cogito.run_evaluation('no/model')": "no/model",
    "cogito.run_evaluation('model')": "weights are missing",
    "cogito.run_evaluation('model', tasks=['mrcp'])": "model",
    "cogito.load_checkpoint('none')": "none",
    "cogito.load_encoder('none')": "none",
    "cogito.compare('a', 'b')": "unknown run",
    "cogito.compare('none.json', 'b')": "none.json",
    "cogito.compare('none.md#a', 'b')": "no such log",
    "cogito.read_log('none.md')": "cannot be read",
    "cogito.check_log('none.md')": "cannot be read",
}
TRY = """
import sys, cogito
for call in sys.argv[1:]:
    try:
        eval(call)
    except (cogito.UserError, cogito.CheckpointError) as error:
        print(call, "->", " ".join(str(error).split()))
    from pathlib import Path
    assert not Path("home").exists(), call
    assert not {"prefect"} & set(sys.modules), call
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (tmp_path / "bad.yaml").write_text(TINY.replace("epochs:", "epoch:"), encoding="utf-8")
    write_small_checkpoint(tmp_path / "model")
    return tmp_path


def in_a_process(place: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code as a user's first process does: torch, imported by the tests, has left its folder in the environment."""
    libraries = ("TORCH", "TRITON_", "MPL", "WANDB_", "PREFECT_", "XDG_")
    kept = {name: value for name, value in environment(place / "home").items() if not name.startswith(libraries)}
    words = [sys.executable, "-c", code, *arguments]
    return subprocess.run(words, cwd=place, env=kept, capture_output=True, text=True, timeout=PATIENCE)


def test_refused_calls_of_python_begin_no_home(place: Path) -> None:
    done = in_a_process(place, TRY, *CALLS)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" -> ", 1) for line in done.stdout.splitlines())
    assert said.keys() == CALLS.keys(), "every call is refused"
    assert not [(call, text) for call, text in said.items() if CALLS[call] not in text]
    assert not (place / "master_experiment_log.md").exists()


# The words of commands that are refused late, after libraries have been imported, with what the message says.
COMMANDS = {
    "evaluate whole --tasks rte": "nyu-mll/glue",
    "evaluate whole --head shoulder": "unknown head",
    "evaluate whole --set evaluation.max_length=999": "reads at most",
    "evaluate whole --tokenizer no/words": "no/words",
    "analyse whole --set data.dataset=no/texts": "no/texts",
    "encode whole tiny.yaml --output o.parquet": "input format",
    "encode whole none.txt --output o.parquet": "not a file",
    "checkpoint show model": "weights are missing",
    "checkpoint convert model new": "weights are missing",
    "run tiny.yaml --set training.init_from=model": "weights are missing",
    "run tiny.yaml --set training.init_from=whole --set publish.store=hub": "no Hugging Face token",
    "run tiny.yaml --set tracking.wandb=online": "W&B",
    "sweep tiny.yaml --grid training.seed=[1,2] --set evaluation.data=hub": "nyu-mll/glue",
    "reproduce log.md#none": "cannot be read",
    "compare a b": "unknown run",
    "rescore a": "unknown run",
    "report a": "no run or sweep",
    "log check none.md": "cannot be read",
    "log add none.json": "cannot be read",
}
RUN = """
import sys
from pathlib import Path
from flows.cli import main
for words in sys.argv[1:]:
    sys.argv = ["cogito", *words.split()]
    print("->", words, file=sys.stderr, flush=True)
    try:
        main()
    except SystemExit as ended:
        assert ended.code == (0 if words == "show tiny.yaml" else 2), words
    assert not Path("home").exists(), words
"""


def test_commands_that_are_refused_late_begin_none_either(place: Path) -> None:
    folder = place / "whole"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "num_concepts": 4}
    save_checkpoint(ConceptModelForMaskedLM(ConceptConfig(vocab_size=280, max_sequence_length=128, **sizes)), folder)
    train_tokenizer(iter(["some text", "more text"]), 300, folder)
    done = in_a_process(place, RUN, "show tiny.yaml", *COMMANDS)
    assert done.returncode == 0, done.stderr
    said = dict(part.split("\n", 1) for part in done.stderr.split("-> ")[1:])
    assert not [(each, text) for each, text in said.items() if COMMANDS.get(each, "") not in text]
    assert said.keys() == {"show tiny.yaml", *COMMANDS}


LOOKUPS = {
    "find_dataset('lab/none', home, None)": "no such data set",
    "find_dataset('lab/texts', home, None, 'v9')": "no revision 'v9'",
    "find_dataset('a b', home, None)": "no such data set",
    "find_tokenizer('lab/none', home, None)": "no such repository",
    "find_tokenizer('a b', home, None)": "no such repository",
    "resolve_checkpoint('lab/none', home)": "no such repository",
    "resolve_checkpoint('lab/model@v9', home)": "not this revision",
    "resolve_checkpoint('lab/toaster', home)": "model_type 'toaster'",
    "resolve_checkpoint('lab/list', home)": "not a JSON object",
    "resolve_checkpoint('lab/empty', home)": "has no config.json",
}
LOOK = """
import sys
from tasks.checkpoints.finding import resolve_checkpoint
from tasks.data.sources import find_dataset, find_tokenizer
from tasks.errors import UserError
from tasks.store.home import cogito_home
home = cogito_home()
for call in sys.argv[1:]:
    try:
        print(call, "->", eval(call))
    except UserError as error:
        print(call, "->", " ".join(str(error).split()))
    assert not home.root.exists(), call
find_dataset('lab/texts', home, None)
assert not home.root.exists(), "a lookup alone is no work"
find_tokenizer('lab/words', home, None)
print(oct(home.root.stat().st_mode & 0o777), (home.root / "cache" / "hub").is_dir())
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    monkeypatch.setenv("COGITO_HOME", str(tmp_path / "home"))
    with HubStandIn() as stand_in:
        stand_in.add("datasets/lab/texts", {"train.txt": b"a text\n"})
        stand_in.add("lab/words", {"tokenizer.json": b"{}"})
        stand_in.add("lab/model", {"config.json": b"{}"})
        stand_in.add("lab/toaster", {"config.json": json.dumps({"model_type": "toaster"}).encode()})
        stand_in.add("lab/list", {"config.json": b"[]"})
        stand_in.add("lab/empty", {"README.md": b"nothing"})
        yield stand_in


def test_refused_lookups_on_the_hub_begin_no_home(hub: HubStandIn, tmp_path: Path) -> None:
    done = hub.run(LOOK, tmp_path, *LOOKUPS)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    said = dict(line.split(" -> ", 1) for line in lines)
    assert not [(call, text) for call, text in said.items() if LOOKUPS[call] not in text]
    assert said.keys() == LOOKUPS.keys() and last == "0o700 True", "and what is found begins a private one"


def test_a_hub_that_fails_begins_no_home(hub: HubStandIn, tmp_path: Path) -> None:
    hub.fault(Fault("", status=500, left=999))
    code = LOOK.split("find_dataset('lab/texts'")[0].replace("except UserError", "except Exception")
    done = hub.run(code, tmp_path, "find_dataset('lab/texts', home, None)", "find_tokenizer('lab/words', home, None)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("500") >= 2
