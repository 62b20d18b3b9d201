"""Every call of `import cogito` takes a path as a str and as a Path, and fails with the message of the command."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_input import model as model  # a whole checkpoint, as a fixture
from command import TINY

import cogito
from flows import cli
from tasks.store.home import Home
from tests.factories import make_record

StrOrPath = Callable[[str], Any]


@pytest.fixture
def place(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an experiment file, a log and two runs."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY, encoding="utf-8")
    Path("log.md").write_text("# Log\n\n| Run ID | MLM Loss |\n|---|---|\n| a_run | -1 |\n", encoding="utf-8")
    Path("reports").mkdir()
    for name in ("a", "b"):
        make_record(run_id=name).save(home.run(name))
    return tmp_path


def refused(call: Callable[[], Any]) -> str:
    """The message of a call that is refused."""
    with pytest.raises(cogito.UserError) as caught:
        call()
    return str(caught.value)


# Every call of the package with each of its paths as `kind`; the result must not depend on the kind.
CALLS: dict[str, Callable[[StrOrPath, Path, Path], Any]] = {
    "load_spec": lambda kind, _home, _model: cogito.load_spec(kind("tiny.yaml")).model_dump(),
    "read_log": lambda kind, _home, _model: cogito.read_log(kind("log.md"))["training"].to_json(),
    "check_log": lambda kind, _home, _model: cogito.check_log(
        kind("log.md"), against=kind("log.md"), reports=kind("reports")
    ),
    "compare": lambda kind, home, _model: cogito.compare(
        kind(f"{home}/runs/a/record.json"), kind(f"{home}/runs/b/record.json")
    ),
    "load_checkpoint": lambda kind, _home, model: cogito.load_checkpoint(kind(str(model))).num_parameters(),
    "load_encoder": lambda kind, _home, model: (
        cogito.load_encoder(kind(str(model)), kind(str(model))).encode(["a"]).tolist()
    ),
    "run_experiment": lambda kind, _home, _model: [
        refused(lambda: cogito.run_experiment(kind("none.yaml"))),
        refused(lambda: cogito.run_experiment(kind("tiny.yaml"), log=kind("."))),
        refused(lambda: cogito.run_experiment(kind("tiny.yaml"), data_root=kind("none"))),
    ],
    "run_evaluation": lambda kind, _home, model: [
        refused(lambda: cogito.run_evaluation(kind("none"))),
        refused(lambda: cogito.run_evaluation(kind(str(model)), data_root=kind("none"))),
        refused(lambda: cogito.run_evaluation(kind(str(model)), tokenizer=kind("none/none"))),
    ],
}


def test_every_call_is_tried() -> None:
    calls = [name for name in cogito.__all__ if not inspect.isclass(getattr(cogito, name))]
    assert sorted(CALLS) == calls


@pytest.mark.parametrize("name", CALLS)
def test_a_path_may_be_a_str(name: str, place: Path, home: Home, model: Path) -> None:
    as_text, as_path = (CALLS[name](kind, home.root, model) for kind in (str, Path))
    assert as_text == as_path and as_text


def test_what_a_path_may_be_is_said_in_the_types() -> None:
    for name in CALLS:
        stated = {key: str(kind) for key, kind in inspect.get_annotations(getattr(cogito, name)).items()}
        paths = {key: kind for key, kind in stated.items() if "Path" in kind and key != "return"}
        assert paths and all("str" in kind for kind in paths.values()), (name, paths)


def test_a_tilde_is_the_users_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("USERPROFILE", str(place))
    assert cogito.load_spec("~/tiny.yaml") == cogito.load_spec("tiny.yaml")
    assert cogito.check_log("~/log.md") == cogito.check_log("log.md")
    assert list(cogito.read_log("~/log.md")) == ["training", "evaluation"]


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (["show", "none.yaml"], lambda: cogito.load_spec("none.yaml")),
        (
            ["show", "tiny.yaml", "--set", "training.seed=010"],
            lambda: cogito.load_spec("tiny.yaml", ["training.seed=010"]),
        ),
        (["log", "check", "none.md"], lambda: cogito.check_log("none.md")),
        (["log", "show", "--log", "none.md"], lambda: cogito.read_log(Path("none.md").resolve())),
        (["compare", "a", "c"], lambda: cogito.compare("a", "c")),
        (["run", "none.yaml"], lambda: cogito.run_experiment("none.yaml")),
        (["evaluate", "none"], lambda: cogito.run_evaluation("none")),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_the_message_is_that_of_the_command(
    words: list[str],
    call: Callable[[], Any],
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["cogito", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert f"cogito: {refused(call)}" in capsys.readouterr().err
