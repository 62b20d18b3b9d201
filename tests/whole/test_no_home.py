"""What is refused begins no home: no call from Python and no lookup on the Hub, whatever the refusal."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import PATIENCE, TINY, environment
from hub_stand_in import Fault, HubStandIn, write_small_checkpoint

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


def test_refused_calls_of_python_begin_no_home(place: Path) -> None:
    words = [sys.executable, "-c", TRY, *CALLS]
    done = subprocess.run(
        words, cwd=place, env=environment(place / "home"), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" -> ", 1) for line in done.stdout.splitlines())
    assert said.keys() == CALLS.keys(), "every call is refused"
    assert not [(call, text) for call, text in said.items() if CALLS[call] not in text]
    assert not (place / "master_experiment_log.md").exists()


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
