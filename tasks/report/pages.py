"""A report as data, and its two renderings: Markdown, and one HTML page made from that Markdown.

Text is escaped where it is rendered, so no name, message or key of a record can become markup, an address that a
browser fetches, or a secret that is shown. What shall be markup says so: `Code`, `Strong`, `Link`.
"""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from string import Template
from typing import Any
from urllib.parse import quote

from tasks.log.rows import code_span
from tasks.secrets import redact

PICTURES = "report"  # the folder of the pictures beside report.md

# An underscore inside a word is no markup, and names are better read without backslashes.
_MARKUP = re.compile(r"([\\`*\[\]<>&~]|(?<![^\W_])_|_(?![^\W_]))")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True)
class Code:
    """A name, shown letter by letter."""

    text: str


@dataclass(frozen=True)
class Strong:
    """What must not be overlooked."""

    text: str


@dataclass(frozen=True)
class Link:
    """A link to another report, relative, or to a page of the web; any other target is shown as text."""

    text: str
    target: str


Text = str | Code | Strong | Link | tuple["Text", ...]


@dataclass(frozen=True)
class Table:
    """A table; every cell is a text."""

    header: Sequence[str]
    rows: Sequence[Sequence[Text]]


@dataclass(frozen=True)
class Quote:
    """Lines as they were written, such as the end of a job's log."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A plot: `draw` writes it as a PNG."""

    name: str
    title: str
    draw: Callable[[Path], None]


Part = Text | Table | Quote | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Report:
    """A whole report, in the order in which it is read."""

    title: str
    sections: Sequence[Section]

    @property
    def pictures(self) -> list[Picture]:
        return [part for section in self.sections for part in section.parts if isinstance(part, Picture)]


def to_markdown(report: Report) -> str:
    """The report as Markdown; its pictures lie in the folder `report` beside it."""
    blocks = [f"# {_text(report.title)}"]
    for section in report.sections:
        blocks += [f"## {_text(section.title)}", *map(_block, section.parts)]
    return "\n\n".join(blocks) + "\n"


def to_html(markdown: str, title: str, pictures: Mapping[str, bytes]) -> str:
    """The same as one page that asks nothing of any other file or host.

    Args:
        markdown: what `to_markdown` gave.
        title: of the page.
        pictures: PNG by name; an image that is not among them is left out.
    """
    from markdown_it import MarkdownIt

    def image(tokens: Any, index: int, options: Any, environment: Any) -> str:
        token = tokens[index]
        data = pictures.get(PurePosixPath(str(token.attrGet("src"))).stem)
        if data is None:
            return ""
        title = parser.renderer.renderInlineAsText(token.children, options, environment)  # type: ignore[attr-defined]
        return f'<img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'

    def link(tokens: Any, index: int, options: Any, environment: Any) -> str:
        target = str(tokens[index].attrGet("href"))
        if target.endswith("/report.md") and "://" not in target:  # one page leads to the next page
            target = target.removesuffix(".md") + ".html"
        return f'<a href="{escape(target)}" rel="noreferrer">'

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    rules: dict[str, Any] = parser.renderer.rules  # type: ignore[attr-defined]
    rules |= {
        "image": image,
        "link_open": link,
        "table_open": lambda *_: '<div class="wide"><table>\n',
        "table_close": lambda *_: "</table></div>\n",
    }
    return _PAGE.substitute(title=escape(redact(title)), body=parser.render(markdown))


def _block(part: Part) -> str:
    if isinstance(part, Table):
        lines = [_row(part.header), "|" + "---|" * len(part.header), *map(_row, part.rows)]
        return "\n".join(lines)
    if isinstance(part, Quote):
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", part.text)), default=0))
        return "\n".join([fence, *(_line(line).rstrip() for line in part.text.strip().splitlines()), fence])
    if isinstance(part, Picture):
        return f"![{_text(part.title)}]({PICTURES}/{part.name}.png)"
    return _text(part).strip()


def _row(cells: Sequence[Text]) -> str:
    return f"| {' | '.join(_text(cell).strip().replace('|', chr(92) + '|') for cell in cells)} |"


def _text(text: Text) -> str:
    if isinstance(text, tuple):
        return "".join(map(_text, text))
    if isinstance(text, Code):
        return code_span(_line(text.text)) if _line(text.text) else ""
    if isinstance(text, Strong):
        return f"**{_text(text.text).strip()}**"
    if isinstance(text, Link):
        shown = _text(text.text)
        is_web = text.target.startswith(("https://", "http://"))
        if (":" in text.target and not is_web) or text.target.startswith("//"):
            return shown
        return f"[{shown}]({quote(_line(text.target), safe='/:?=&%#~+,;@.-_')})"
    return _MARKUP.sub(r"\\\1", _line(text))


def _line(text: str) -> str:
    """A text on one line, in characters that can be written and seen."""
    return _CONTROL.sub(" ", redact(text.encode("utf-8", "replace").decode("utf-8")))


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light dark; --text: #1c2024; --soft: #5b6470; --line: #d9dee4; --page: #fff; --band: #f5f7f9;
  --mark: #b3261e; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7eb; --soft: #a3acb8; --line: #39414b; --page: #14171b;
  --band: #1d2228; --mark: #ff8a80; --link: #7db8f5; } }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 72rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
p, pre { max-width: 60rem; }
strong { color: var(--mark); }
a { color: var(--link); }
code, pre { font: .88em/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { padding: .6rem .8rem; background: var(--band); border-radius: 6px; overflow-x: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9em; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
tbody tr:nth-child(even) { background: var(--band); }
td strong { white-space: nowrap; }
p:has(> img:only-child) { display: inline-block; vertical-align: top; margin: .4rem .8rem .4rem 0;
  max-width: min(100%, 35rem); }
img { max-width: 100%; height: auto; border-radius: 6px; background: #fff; }
@media print { body { max-width: none; } }
</style>
</head>
<body>
$body</body>
</html>
""")
