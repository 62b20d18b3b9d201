"""What the keys of an experiment file mean, read off its fields: for `cogito explain`, and for editors as a schema.

Example: `cogito explain training.epochs`
"""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from tasks.errors import UserError
from tasks.spec.experiment import ExperimentSpec

# What stands in a path for a name of a mapping: `evaluation.per_task.NAME.epochs`.
NAME = "NAME"
# Pydantic's words for the bounds of what may be null or lies in a mapping, and those of JSON schema.
_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_SAID = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
_KINDS = {"integer": "a whole number", "number": "a number", "string": "a text", "boolean": "true or false"}


@dataclass(frozen=True)
class Key:
    """A key of an experiment file.

    Attributes:
        path: dotted; `NAME` stands for a name of a mapping.
        meaning: what it decides, with its unit.
        allowed: the values that it takes; empty for a section.
        default: its value where the file does not state it; "required" if it must; empty for a section.
    """

    path: str
    meaning: str
    allowed: str = ""
    default: str = ""

    def __str__(self) -> str:
        values = f"\n  {self.allowed}; {'' if self.default == 'required' else 'default '}{self.default}" * bool(
            self.allowed
        )
        return f"{self.path}\n  {self.meaning}{values}"


def spec_schema() -> dict[str, Any]:
    """The JSON schema of an experiment file."""
    schema: dict[str, Any] = _in_words_of_json_schema(ExperimentSpec.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Cogito experiment"}


def all_keys() -> list[Key]:
    """Every section and key in the order of the spec."""
    schema = spec_schema()
    return list(_keys(schema, "", schema["$defs"]))


def find_keys(name: str) -> list[Key]:
    """The keys of a section, a key by its path, or every key that ends so: `epochs`.

    Raises:
        UserError: there is none; with the nearest name.
    """
    keys, parts = all_keys(), name.strip().split(".")
    split = {key.path: key.path.split(".") for key in keys}
    found = [key for key in keys if _same(split[key.path][: len(parts)], parts)]
    found = found or [key for key in keys if _same(split[key.path][-len(parts) :], parts)]
    if not found:
        names = dict.fromkeys([*split, *(path[-1] for path in split.values())])
        near = get_close_matches(name[:200], names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"unknown key {name[:200]!r}: {hint}fix: `cogito explain` lists every key")
    return found


def _same(path: list[str], parts: list[str]) -> bool:
    return len(path) == len(parts) and all(one in (other, NAME) for one, other in zip(path, parts, strict=True))


def _in_words_of_json_schema(node: Any) -> Any:
    if isinstance(node, list):
        return [_in_words_of_json_schema(part) for part in node]
    if not isinstance(node, dict):
        return node
    return {_BOUNDS.get(key, key): _in_words_of_json_schema(part) for key, part in node.items() if key != "title"}


def _keys(section: dict[str, Any], before: str, sections: dict[str, Any]) -> Iterator[Key]:
    for name, node in section["properties"].items():
        path, required = f"{before}{name}", name in section.get("required", ())
        inner = _section(node, sections)
        entry = _section(node.get("additionalProperties") or {}, sections)
        if inner is not None:
            yield Key(path, inner["description"])
            yield from _keys(inner, f"{path}.", sections)
        elif entry is not None:
            yield Key(path, node["description"])
            yield from _keys(entry, f"{path}.{NAME}.", sections)
        else:
            default = "required" if required else _written(node.get("default", {}))
            yield Key(path, node["description"], _allowed(node), default)


def _section(node: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any] | None:
    found: dict[str, Any] | None = sections.get(str(node.get("$ref", "")).rpartition("/")[2])
    return found


def _allowed(node: dict[str, Any]) -> str:
    if "anyOf" in node:
        return " or ".join(_allowed(part) for part in node["anyOf"])
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    if "items" in node:
        return f"a list, each {_allowed(node['items'])}"
    if "propertyNames" in node:
        return f"a mapping of {_allowed(node['propertyNames'])} to {_allowed(node['additionalProperties'])}"
    kind = _KINDS.get(node["type"], node["type"])
    return ", ".join([kind, *(f"{said} {node[bound]:,}" for bound, said in _SAID.items() if bound in node)])


def _written(value: Any) -> str:
    """A default as an experiment file would state it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
