"""How a written value becomes a number, a truth value or a text: one rule for files, `--set` and `--grid`.

YAML alone cannot know what an unquoted word means: 1.1 reads `010` as 8, `1:30` as 90 and `no` as false, 1.2 does not.
So nothing is converted while a file is parsed, and the type of a key reads what was written. A number is decimal; a
spelling that YAML 1.1, YAML 1.2 and a person could read differently is refused with the spelling to use instead. A
text is kept as it was written: `revision: 0123` and `config: no` are what they look like.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator

_EXPONENT = r"(?:[eE][-+]?[0-9]+)?"
_DECIMAL = rf"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?){_EXPONENT}"
_SMALL = r"([-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,2})?)"
_NUMBER = re.compile(_DECIMAL)
_PREFIXED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_THOUSANDS = re.compile(r"[-+]?[0-9]{1,3}(?:\.[0-9]{3})+")
_FLAGS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_MEANT = {"yes": "true", "on": "true", "y": "true", "1": "true", "no": "false", "off": "false", "n": "false"}
_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_LONGEST = 400  # characters of a number; no key needs more, and converting millions of digits takes minutes
SHOWN = 200  # characters of a wrong value


class Plain(str):
    """An unquoted YAML scalar as it was written."""


def _decimal(number: Decimal) -> str:
    return format(number.normalize(), "f")


def _bare(text: str) -> str:
    """A number without grouping marks and leading zeros."""
    return re.sub(r"^([-+]?)0+(?=[0-9])", r"\1", re.sub(r"[_,'\s]", "", text))


def _octal(text: str) -> list[str]:
    return [f"0o{digits}"] if (digits := text.lstrip("0")) and set(digits) <= set("01234567") else []


# Spellings that are no number here: what is wrong, and what may have been meant.
_SPELLINGS: list[tuple[str, str, Callable[[re.Match[str]], list[str]]]] = [
    (rf"[-+]?0[0-9]+(?:\.[0-9]*)?{_EXPONENT}", "a leading zero can mean octal", lambda m: [_bare(m[0]), *_octal(m[0])]),
    (rf"(?=.*_)[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?{_EXPONENT}", "digits are not grouped", lambda m: [_bare(m[0])]),
    (r"[-+]?[0-9]+(?::[0-9.]+)+", "colons can mean base 60, so write one decimal number", lambda m: []),
    (r"0b[01]+", "binary is not read", lambda m: [str(int(m[0], 2))]),
    (r"[-+]?\.?(?i:inf|infinity|nan)", "it must be finite", lambda m: []),
    (rf"{_SMALL}\s?%", "a share is written as a fraction", lambda m: [_decimal(Decimal(m[1]) / 100)]),
    (r"[-+]?[0-9]{1,3}(?:[,'\s][0-9]{3})+", "digits are not grouped", lambda m: [_bare(m[0]), m[0].replace(",", ".")]),
    (rf"[-+]?[0-9]*,[0-9]+{_EXPONENT}", "the decimal mark is a point", lambda m: [m[0].replace(",", ".")]),
    (
        rf"{_SMALL}\s?([kKmMgGbB])",
        "numbers have no suffix",
        lambda m: [_decimal(Decimal(m[1]) * _SUFFIXES[m[2].lower()])],
    ),
    (rf"{_DECIMAL}\W*[^\W\d_].*", "numbers have no unit, so write the number alone", lambda m: []),
]


def read_number(value: Any) -> Any:
    """A value for a number, as written or as a Python number.

    Raises:
        ValueError: it is none, or a spelling that can be read in two ways; with the fix.
    """
    return _number(value) if isinstance(value, str) else _no_other(value, "a number")


def read_whole(value: Any) -> Any:
    """A value for a whole number, as written (`1e3` and `20.0` are whole) or as a Python number.

    Raises:
        ValueError: it is none, or a spelling that can be read in two ways; with the fix.
    """
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"got {value}; allowed: a whole number")
    return _no_other(value, "a whole number")


def read_flag(value: Any) -> Any:
    """A truth value.

    Raises:
        ValueError: it is neither true nor false.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _FLAGS:
        return _FLAGS[value]
    meant = (_MEANT | {"0": "false"}).get(str(value).lower())
    raise ValueError(f"{_got(value)}; allowed: true or false{f'; fix: write {meant}' if meant else ''}")


def read_text(value: Any) -> Any:
    """A text as it was written.

    Raises:
        ValueError: it is no text, or an unquoted `true` or `false`.
    """
    if isinstance(value, Plain) and value in _FLAGS:
        raise ValueError(f"got {value}, a truth value; allowed: a text; fix: write '{value}' in quotes if it is one")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{_got(value)}; allowed: a text")
    return str(value)


def short(value: Any) -> str:
    """A value as a message shows it, shortened."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _got(value: Any) -> str:
    return "is empty" if value is None else f"got {short(value)}"


def _no_other(value: Any, kind: str) -> Any:
    """Refuse what is neither written nor a number; Pydantic reads the rest."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise ValueError(f"{_got(value)}; allowed: {kind}")
    return value


def _number(text: str) -> float:
    if _PREFIXED.fullmatch(text) and len(text) <= _LONGEST:
        return float(int(text, 0))
    if not _NUMBER.fullmatch(text) or len(text) > _LONGEST:
        raise ValueError(_misspelt(text, "a number", _number))
    number = float(text)
    if math.isinf(number) or (number == 0 and re.search("[1-9]", re.split("[eE]", text)[0])):
        raise ValueError(f"got {short(text)}; allowed: a number that 64 bits can hold")
    return number + 0.0  # -0.0 is 0.0


def _whole(text: str) -> int:
    kind = "a whole number"
    if _PREFIXED.fullmatch(text) and len(text) <= _LONGEST:
        return int(text, 0)
    if not _NUMBER.fullmatch(text) or _THOUSANDS.fullmatch(text) or len(text) > _LONGEST:
        raise ValueError(_misspelt(text, kind, _whole))
    if _number(text) == 0:
        return 0
    exact = Decimal(text)
    if exact != exact.to_integral_value():
        raise ValueError(f"got {text}; allowed: {kind}; fix: write {math.floor(exact)} or {math.ceil(exact)}")
    return int(exact)


def _misspelt(text: str, kind: str, read: Callable[[str], float]) -> str:
    """What is wrong with the spelling of a number, and the spellings that would be read."""
    if len(text) > _LONGEST:
        return f"got a text of {len(text):,} characters; allowed: {kind} of at most {_LONGEST}"
    reason, meant = "", [unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-").strip()]
    if _THOUSANDS.fullmatch(text):
        reason, meant = "digits are not grouped", [_bare(text.replace(".", "")), text.partition(".")[0]]
    for pattern, said, candidates in _SPELLINGS:
        if match := re.fullmatch(pattern, text):
            reason, meant = said, candidates(match)
            break
    fixes = " or ".join(_readable(meant, read))
    return f"got {short(text)}; {f'{reason}; ' if reason else ''}allowed: {kind}{f'; fix: write {fixes}' * bool(fixes)}"


def _readable(candidates: list[str], read: Callable[[str], float]) -> Iterator[str]:
    for candidate in dict.fromkeys(candidates):
        if _NUMBER.fullmatch(candidate) or _PREFIXED.fullmatch(candidate):
            try:
                read(candidate)
            except ValueError:
                continue
            yield candidate


Whole = Annotated[int, BeforeValidator(read_whole)]
Number = Annotated[float, BeforeValidator(read_number)]
Flag = Annotated[bool, BeforeValidator(read_flag)]
Text = Annotated[str, BeforeValidator(read_text)]
