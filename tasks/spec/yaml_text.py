"""Reading untrusted YAML: bounded in size and depth, without aliases, repeated keys or tags.

Aliases are refused because ten lines of them can expand to gigabytes, and deep nesting because PyYAML's time grows
with its square. Both are detected while the text is scanned, before any value is built.

A scalar stays the text that was written, but for `null`, `~` and nothing at all, which are None. What it means is
decided by the type of its key: `tasks/spec/values.py`.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import UserError
from tasks.spec.values import Plain

MAX_CHARACTERS = 100_000
MAX_DEPTH = 30
_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)

# Characters that an escape such as "\ud800" yields and that no file name, data set or log can hold.
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")

_NULL = ("", "~", "null", "Null", "NULL")

# The line of every key and item by its path.
Lines = dict[tuple, int]


def read_yaml(path: Path) -> tuple[Any, Lines]:
    """The value of a YAML file, and the line of every key.

    Raises:
        UserError: it cannot be read, or `parse_yaml` refuses it.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)  # bounded even for /dev/zero
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fix: see `cogito ls experiments`") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; an experiment is a YAML file; fix: save it as UTF-8") from None
    if len(text) > MAX_CHARACTERS:
        size = path.stat().st_size
        raise UserError(f"{path}: has {size or 'too many'} characters; allowed: {MAX_CHARACTERS:,}; fix: shorten it")
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> tuple[Any, Lines]:
    """The value of a YAML text, and the line of every key.

    Args:
        source: named in messages, followed by the line.

    Raises:
        UserError: it is not YAML, or uses something that is refused; one line per mistake.
    """
    lines: Lines = {}
    mistakes: list[str] = []
    try:
        _check_tokens(text, source)
        tree = yaml.BaseLoader(text).get_single_node()
        value = None if tree is None else _built(tree, (), source, lines, mistakes)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}:{mark.line + 1}" if mark else source
        reason = " ".join(str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).split())
        fix = "indent by spaces" if "'\\t'" in reason else "mend it there, or quote the text"
        raise UserError(f"{place}: not valid YAML: {reason[:300]}; fix: {fix}") from None
    if mistakes:
        raise UserError("\n".join(mistakes))
    return value, lines


class _Dumper(yaml.SafeDumper):
    """Quotes what would be refused without quotes."""


def _quoted_where_needed(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if text.casefold() == "none" else None  # YAML itself takes it for a text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted_where_needed)


def spec_text(spec: dict[str, Any]) -> str:
    """A resolved spec as an experiment file, which `read_yaml` reads as the same spec."""
    text: str = yaml.dump(spec, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _built(node: yaml.Node, location: tuple, source: str, lines: Lines, mistakes: list[str]) -> Any:
    """The value of a node; notes the line of every key and item, and what is refused."""
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_built(value, (*location, n), source, lines, mistakes) for n, value in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        if node.style is not None:
            return node.value
        return None if node.value in _NULL else Plain(node.value)
    built: dict[str, Any] = {}
    for key, value in node.value:
        place = f"{source}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            mistakes.append(f"{place}: not valid YAML for an experiment: a key must be a word; fix: quote it")
            continue
        name = key.value
        if name == "<<":
            mistakes.append(f"{place}: YAML merge keys are not allowed; fix: write the keys out")
        if name in built:
            mistakes.append(f"{place}: key {name!r} stands twice; fix: keep one")
        lines[(*location, name)] = key.start_mark.line + 1
        built[name] = _built(value, (*location, name), source, lines, mistakes)
    return built


def _check_tokens(text: str, source: str) -> None:
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        line = token.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise UserError(f"{source}:{line}: is nested deeper than {MAX_DEPTH} levels; fix: flatten it")
        if isinstance(token, yaml.AliasToken | yaml.AnchorToken):
            raise UserError(f"{source}:{line}: YAML anchors and aliases are not allowed; fix: write the value out")
        if isinstance(token, yaml.TagToken):
            raise UserError(f"{source}:{line}: YAML tags are not allowed; fix: drop {''.join(map(str, token.value))!r}")
        if isinstance(token, yaml.ScalarToken) and _NO_TEXT.search(token.value):
            raise UserError(f"{source}:{line}: holds a character that is no text; fix: drop {token.value[:40]!a}")
