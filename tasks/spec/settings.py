"""The settings of specs side by side: as dotted keys, and those in which they differ."""

from collections.abc import Mapping
from typing import Any

# Sections of a spec that do not change what is computed.
WITHOUT_EFFECT = ("name", "tracking", "publish")


def flat_keys(part: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested part of a spec as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in part.items():
        nested = isinstance(value, dict) and value
        flat |= flat_keys(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def differing(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of every spec the keys whose values are not the same in all of them, in the order of the spec.

    Args:
        specs: by any name, such as a run id.

    Returns:
        The spec's own values under the same dotted keys for each name; None where it has no such key.
    """
    flat = {
        name: flat_keys({part: value for part, value in spec.items() if part not in WITHOUT_EFFECT})
        for name, spec in specs.items()
    }
    keys = dict.fromkeys(key for settings in flat.values() for key in settings)
    differ = [key for key in keys if len({repr(settings.get(key)) for settings in flat.values()}) > 1]
    return {name: {key: settings.get(key) for key in differ} for name, settings in flat.items()}
