"""Reading an experiment file: YAML and `--set` texts become a spec, or one error reports every mistake."""

import copy
import math
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tasks.errors import UserError
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.values import SHOWN, short
from tasks.spec.yaml_text import MAX_DEPTH, Lines, parse_yaml, read_yaml
from tasks.store.files import is_safe_name
from tasks.store.home import StrPath, user_path

# Reporting stops here: listing the mistakes of a hopeless file must not take a minute.
MOST_MISTAKES = 50
# The experiments that come with Cogito lie beside its packages, in a checkout as well as installed.
PACKAGED = Path(__file__).resolve().parents[2] / "experiments"


class Change(NamedTuple):
    """A change of one key: the option that asks for it, the key's parts, and the value as YAML."""

    option: str
    key: tuple[str, ...]
    value: Any

    def __str__(self) -> str:
        return f"{self.option} {'.'.join(self.key)}"


def experiment_files() -> list[Path]:
    """The experiment files of the working directory's `experiments/`, then those that come with Cogito, by name."""
    own = sorted(Path("experiments").glob("*.yaml"))
    names = {path.name for path in own}
    return own + [path for path in sorted(PACKAGED.glob("*.yaml")) if path.name not in names]


def find_spec(path: Path) -> Path:
    """The file of an experiment: the path, or where there is none the file of that name that comes with Cogito.

    `quickstart` and `experiments/quickstart.yaml` name the same, also outside a checkout.
    """
    packaged = PACKAGED / f"{path.name.removesuffix('.yaml')}.yaml"
    is_name = path.parent in (Path(), Path("experiments")) and is_safe_name(path.name)
    return packaged if is_name and not path.exists() and packaged.is_file() else path


def load_spec(path: StrPath, overrides: Sequence[str] = ()) -> ExperimentSpec:
    """Read and validate an experiment file.

    Args:
        path: the YAML file, or the name of an experiment that comes with Cogito.
        overrides: `key=value` texts of `--set`, keys dotted, values YAML.

    Raises:
        UserError: with one line per mistake: place, what is wrong, what is allowed.
    """
    path = find_spec(user_path(path))
    raw, lines = read_yaml(path)
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise UserError(
            f"{path}: is no experiment; allowed: a mapping with the keys {', '.join(ExperimentSpec.model_fields)}"
        )
    return build_spec(raw, overrides, str(path), lines)


def build_spec(
    raw: dict[str, Any], overrides: Sequence[str | Change], source: str, lines: Lines | None = None
) -> ExperimentSpec:
    """Validate a mapping as a spec, with overrides applied.

    Args:
        overrides: `key=value` texts of `--set`, or changes that are parsed.
        source: named in messages.
        lines: the line of every key in the source, if it is a file.

    Raises:
        UserError: with one line per mistake.
    """
    changes = [parse_override(change) if isinstance(change, str) else change for change in overrides]
    refuse_replaced(changes)
    # A section without content means its defaults.
    raw = {key: {} if value is None and key in ExperimentSpec.model_fields else value for key, value in raw.items()}
    raw = copy.deepcopy(raw)
    for change in changes:
        _apply(raw, change)
    overridden = {change.key: str(change) for change in changes}
    try:
        return ExperimentSpec.model_validate(raw)
    except ValidationError as error:
        mistakes = [
            (tuple(part for part in mistake["loc"] if part != "[key]"), mistake)
            for mistake in error.errors(include_url=False)
        ]
        mistakes.sort(key=lambda each: _line(each[0], lines or {}))  # in the order of the file, then those of --set
        messages = [
            f"{_place(location, source, lines or {}, overridden)}: {_explain(mistake, location)}"
            for location, mistake in mistakes[:MOST_MISTAKES]
        ]
        if len(mistakes) > MOST_MISTAKES:
            messages.append(f"{source}: and {len(mistakes) - MOST_MISTAKES:,} more mistakes")
        raise UserError("\n".join(messages)) from None


def parse_override(text: str) -> Change:
    """The change that `--set KEY=VALUE` asks for.

    Raises:
        UserError: it has another form.
    """
    key, separator, value = text.partition("=")
    key = key.strip()
    if not separator or not key:
        raise UserError(f"--set {text}: must be KEY=VALUE, for example --set training.epochs=1")
    try:
        parsed, _ = parse_yaml(value, f"--set {key}")
    except UserError as error:
        raise UserError(f"--set {text[:200]}: the value is not valid YAML: {error}") from None
    parts = tuple(key.split("."))
    if len(parts) > MAX_DEPTH:
        raise UserError(f"--set {text[:200]}: names more than {MAX_DEPTH} levels; fix: SECTION.KEY=VALUE")
    return Change("--set", parts, parsed)


def refuse_replaced(changes: Sequence[Change]) -> None:
    """Refuse a change that a later one of the same key, or of the section around it, would replace.

    Raises:
        UserError: there is one; it would be ignored.
    """
    for number, change in enumerate(changes):
        for later in changes[number + 1 :]:
            if change.key[: len(later.key)] == later.key:
                raise UserError(f"{change}: would be ignored, since {later} replaces it; fix: drop one of them")


def _apply(raw: dict[str, Any], change: Change) -> None:
    if _is_section(_type_at(change.key)):
        keys = change.value if isinstance(change.value, dict) and change.value else {"KEY": "VALUE"}
        fixes = [f"{change}.{key}={_written(value, change.option)}" for key, value in keys.items()]
        raise UserError(
            f"{change}: is a section, and would drop the keys that the file states in it; allowed: a single key; "
            f"fix: {' '.join(fixes)[:SHOWN]}"
        )
    *parents, last = change.key
    place: Any = raw
    for parent in parents:
        if place.get(parent) is None:
            place[parent] = {}
        place = place[parent]
        if not isinstance(place, dict):
            raise UserError(f"{change}: {parent} has no keys of its own; allowed: SECTION.KEY=VALUE")
    place[last] = copy.deepcopy(change.value)


def _written(value: Any, option: str) -> str:
    """A value as it stands in the fix of a message: that of `--grid` is a list, of which this is one point."""
    return "[VALUE, ...]" if option == "--grid" else "null" if value is None else str(value)


def _line(location: tuple, lines: Lines) -> float:
    """The line of the innermost part of a location that stands in the file; past its end for what does not."""
    known = (lines[location[:length]] for length in range(len(location), 0, -1) if location[:length] in lines)
    return next(known, math.inf)


def _place(location: tuple, source: str, lines: Lines, overridden: dict[tuple, str]) -> str:
    dotted = ".".join(str(part) for part in location)
    if not location:
        return source
    if location in overridden:
        return overridden[location]
    for key, flag in overridden.items():
        if key[: len(location)] == location and location not in lines:
            return f"{flag}: {dotted}"
    for length in range(len(location), 0, -1):
        if location[:length] in overridden:
            return f"{overridden[location[:length]]}: {dotted}"
        if location[:length] in lines:
            return f"{source}:{lines[location[:length]]}: {dotted}"
    return f"{source}: {dotted[:SHOWN]}"


def _explain(mistake: Any, location: tuple) -> str:
    kind, got = mistake["type"], mistake.get("input")
    if kind == "extra_forbidden":
        allowed = list(_section_at(location[:-1]).model_fields)
        near = get_close_matches(str(location[-1])[:SHOWN], allowed, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown key {str(location[-1])[:SHOWN]!r}: {hint}allowed: {', '.join(sorted(allowed))}"
    if kind == "missing":
        return "is required and missing"
    if kind == "value_error":
        return str(mistake["ctx"]["error"])
    if kind == "literal_error":
        near = get_close_matches(short(got), _literal_values(location), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"got {short(got)}; allowed: {mistake['ctx']['expected']}{hint}"
    text = mistake["msg"]
    return f"got {short(got)}; {text[0].lower()}{text[1:]}"


def _type_at(key: tuple) -> Any:
    """The type of what a key names: that of a section, which has keys of its own, or of a value; None: no such key."""
    found: Any = ExperimentSpec
    for part in key:
        if _is_section(found):
            field = found.model_fields.get(part)
            found = None if field is None else field.annotation
        else:
            found = get_args(found)[1] if get_origin(found) is dict else None
    return found


def _is_section(found: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(found, type) and issubclass(found, BaseModel)


def _section_at(location: tuple) -> type[BaseModel]:
    """The section that a location lies in."""
    return next(found for n in range(len(location), -1, -1) if _is_section(found := _type_at(location[:n])))


def _literal_values(location: tuple) -> list[str]:
    field = _section_at(location[:-1]).model_fields.get(location[-1])
    return [] if field is None else [str(value) for value in get_args(field.annotation)]
