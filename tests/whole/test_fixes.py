"""Every `fix:` of a message can be followed: its commands, options and keys exist, read off the sources.

`test_fixes_followed.py` follows those that users meet most often.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from command import ROOT

from flows import cli
from tasks.errors import UserError
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.explaining import all_keys, find_keys
from tasks.spec.reading import build_spec

# What stands for a value that a message fills in: a number, a name and a path may all be called so.
FILLED = "1"
SECTIONS = "|".join(name for name in ExperimentSpec.model_fields if name != "name")
KEY = re.compile(rf"(?<![\w/.{{])(?:{SECTIONS})(?:\.[a-zA-Z_]+)+")
STATED = re.compile(rf"({KEY.pattern})(?:=|: | )(?=[\w'\[{{-])(\S+?)(?=[,;)]?(?:\s|$))")


class Message(NamedTuple):
    where: str
    text: str
    fix: str


def text_of(node: ast.AST) -> str:
    """A text as it is written, with FILLED for what is filled in; empty for what is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else FILLED for part in node.values)
    return ""


def is_fix(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a text is a fix by itself: given the name `fix` or `fixes`, or the last word of a finding."""
    above = parents.get(node)
    while isinstance(above, ast.Dict | ast.IfExp | ast.BinOp | ast.BoolOp):
        above = parents.get(above)
    if isinstance(above, ast.Assign):
        return any(isinstance(name, ast.Name) and name.id.strip("_").lower() in FIXES for name in above.targets)
    finding = isinstance(above, ast.Call) and isinstance(above.func, ast.Name) and above.func.id == "Finding"
    return finding and len(above.args) > 3 and above.args[3] is node  # type: ignore[union-attr]


FIXES = {"fix", "fixes", "smaller", "again", "anew"}


def messages() -> Iterator[Message]:
    """Every text of the product that says how something is fixed."""
    for folder in ("cogito", "flows", "tasks", "models"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
            for node in ast.walk(tree):
                text = text_of(node)
                if not text or isinstance(parents[node], ast.JoinedStr | ast.Expr):
                    continue
                _, found, fix = text.lower().partition("fix: ")
                if found or is_fix(node, parents):
                    where = f"{path.relative_to(ROOT).as_posix()}:{node.lineno}"  # type: ignore[attr-defined]
                    yield Message(where, text, text[-len(fix) :] if found else text)


MESSAGES = list(messages())


def parse(words: list[str]) -> None:
    """Parse a command as the command line does, and run nothing."""
    command: Any = cli.app
    path = []
    while getattr(command, "commands", None):
        name, *words = words
        path.append(name)
        command = command.commands[name]
        command = command.load() if isinstance(command, cli.DeferredCommand) else command
    command.make_context(" ".join(path), list(words))


def options() -> set[str]:
    found = {"--version", "--help"}

    def walk(command: Any) -> None:
        for inner in command.commands.values():
            inner = inner.load() if isinstance(inner, cli.DeferredCommand) else inner
            found.update(word for one in inner.params for word in one.opts)
            if getattr(inner, "commands", None):
                walk(inner)

    walk(cli.app)
    return found


def test_all_are_read() -> None:
    """A check that reads nothing finds nothing."""
    assert len(MESSAGES) > 200
    texts = "\n".join(message.fix for message in MESSAGES)
    assert "write null" in texts and "use a token with write permission" in texts and "`cogito doctor --fix`" in texts
    assert "put the config.json of its model there" in texts and "scores it in a run of its own" in texts


def test_every_command_in_a_message_parses() -> None:
    found = [(message.where, words) for message in MESSAGES for words in re.findall(r"`cogito ([^`]+)`", message.text)]
    assert len(found) > 15
    for where, words in found:
        try:
            parse(shlex.split(words))
        except (KeyError, ValueError, SystemExit) as error:
            pytest.fail(f"{where}: `cogito {words}`: {error!r}")
        except Exception as error:
            pytest.fail(f"{where}: `cogito {words}`: {getattr(error, 'message', error)}")
    assert not [message for message in MESSAGES if re.search(r"(?<![`\w/.])cogito (?!ui:)\w+", message.fix)], "in `"


def test_every_command_in_the_documents_exists() -> None:
    """With its options; a bare `cogito run` names a command and is not to be typed."""
    found = 0
    for path in [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    ]:
        text = path.read_text(encoding="utf-8")
        for words in re.findall(r"^\$ cogito (.+)$|`cogito ([^`]+)`|bin/cogito (.+)$", text, re.M):
            typed = shlex.split("".join(words).partition(" > ")[0], comments=True)
            found += 1
            try:
                assert typed[0].startswith("--") or parse(typed) is None
            except Exception as error:
                said = getattr(error, "format_message", lambda error=error: repr(error))()
                assert "Missing" in said or "requires an argument" in said, (path.name, typed, said)
    assert found > 80


def test_every_option_in_a_fix_exists() -> None:
    known = options()
    found = [
        (message.where, word) for message in MESSAGES for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", message.fix)
    ]
    assert len(found) > 20 and not [one for one in found if one[1] not in known]


def test_every_key_in_a_message_exists_and_takes_the_value() -> None:
    keys = [(message.where, key) for message in MESSAGES for key in KEY.findall(message.text)]
    keys = [(where, key) for where, key in keys if not key.startswith("model.safetensors")]
    assert len(keys) > 35
    for where, key in keys:
        if not key.endswith((".KEY", ".json")):
            assert [one.path for one in find_keys(key)][:1] == [key], (where, key)
    values = [(message.where, *found) for message in MESSAGES for found in STATED.findall(message.fix)]
    stated = [(key, value) for _, key, value in values if value not in WORDS]
    assert len(stated) >= 10, stated
    for where, key, value in values:
        if value not in WORDS:
            assert accepts(key, value.rstrip(",;")), (where, key, value)


# Words that follow a key in a sentence and are no values of it.
WORDS = {"of", "or", "to"}


def accepts(key: str, value: str) -> bool:
    """Whether a key may have a value; what other keys then make of it does not count."""
    if value == FILLED:
        return True
    try:
        build_spec({"name": "a", "data": {"dataset": "a/b"}}, [f"{key}={value}"], "a")
    except UserError as error:
        return not [line for line in str(error).splitlines() if line.startswith(f"--set {key}: ")]
    return True


# A message says what to do, what would be right, or quotes a message that does.
WAYS_OUT = re.compile(rf"fix: |allowed|did you mean|for example|^--set .*: .*{FILLED}$|{FILLED}$")
ERRORS = ("UserError", "StageError", "TokenizerError", "UnfitError")


def test_every_error_says_what_to_do() -> None:
    """Those of `models.checkpoints` are given their fix by `tasks.checkpoints.finding.reading`."""
    found = []
    for folder in ("flows", "tasks", "models"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in ERRORS
                    and node.args
                ):
                    text = text_of(node.args[0])
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", text))
    assert len(found) > 150
    assert not [one for one in found if one[1] and not WAYS_OUT.search(one[1]) and one[1] not in NO_FAULT]


# Not the user's to mend.
NO_FAULT = {"interrupted"}


def test_the_checks_see_what_they_look_for() -> None:
    assert KEY.findall("fix: data.config, or model.use_bixt; not /data/x, a.data.y") == [
        "data.config",
        "model.use_bixt",
    ]
    assert STATED.findall("state publish.store local, or data.revision: refs/x; training.seed=1") == [
        ("publish.store", "local"),
        ("data.revision", "refs/x"),
        ("training.seed", "1"),
    ]
    assert accepts("publish.store", "auto") and not accepts("publish.store", "ftp")
    assert accepts("evaluation.select_on", "dev") and not accepts("training.seed", "08")
    for words in (["run", "--fresh"], ["evaluate"], ["rescore"], ["run", "a", "--quick"], ["ls", "tasks", "b"]):
        with pytest.raises(Exception, match=r"Missing|No such option|unexpected"):
            parse(words)
    with pytest.raises(KeyError):
        parse(["nothing"])
    assert {"--set", "--data-root", "--fix"} <= options() and "--quick" not in options()
    assert len(all_keys()) > 70
