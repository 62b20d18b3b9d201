"""Reports as text: a Jinja2 template gives the Markdown, and the HTML page is made from that Markdown.

Every value that a template prints is escaped for Markdown and cleared of secrets, so no name, message or key of a
record can become markup, an address that a browser fetches, or a secret on display. Markup comes from the templates
and the filters below alone.
"""

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from tasks.log.rows import code_span
from tasks.report.explanations import PLOTS
from tasks.review.sweeps import mean_text, pooled_mark
from tasks.scores.showing import show
from tasks.secrets import redact

PICTURES = "report"  # the folder of the pictures beside report.md
NARROW = "_narrow"  # ends the name of a picture's shape for narrow screens

# An underscore inside a word is no markup, and names are easier to read without backslashes.
_MARKUP = re.compile(r"([\\`*\[\]<>&~|]|(?<![^\W_])_|_(?![^\W_]))")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True)
class Plot:
    """A picture of a report.

    Attributes:
        draw: writes it as an SVG to `path`; None where it could not be measured.
        gap: why not.
        alt: what it shows, in words.
    """

    name: str
    title: str
    draw: Callable[..., None] | None
    gap: str = ""
    alt: str = ""

    @property
    def caption(self) -> str:
        """What a reader needs to know to judge it."""
        return PLOTS.get(self.name, "")


@dataclass(frozen=True)
class Report:
    """A template, the facts that it prints, and the pictures beside it."""

    title: str
    template: str
    facts: Mapping[str, Any]
    plots: list[Plot]


def to_markdown(report: Report) -> str:
    """The report as Markdown, with a list of its contents; its pictures lie in the folder PICTURES beside it."""
    text = _environment(finalize=_escape).get_template(report.template).render(report.facts, title=report.title)
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    lines, headings = text.split("\n"), list(_headings(_parser().parse(text)))
    if len(headings) > 1:
        links = " · ".join(f"[{text.content}](#{_anchor(text)})" for _, text in headings[1:])
        lines.insert((headings[1][0].map or [0])[0], f"Contents: {links}\n")
    return "\n".join(lines)


def to_html(markdown: str, title: str, pictures: Mapping[str, bytes]) -> str:
    """The report as one page that loads no other file and contacts no host.

    Args:
        markdown: the result of `to_markdown`.
        title: the title of the page.
        pictures: SVG by name; an image that is not among them is left out. One whose name ends in NARROW replaces the
            one without on a narrow screen.
    """
    parser = _parser()
    tokens = parser.parse(markdown)
    for heading, text in _headings(tokens):
        heading.attrSet("id", _anchor(text))
    for token in tokens:
        for child in token.children or []:
            if child.type == "image":
                name = PurePosixPath(str(child.attrGet("src"))).stem
                alt = RendererHTML(parser).renderInlineAsText(child.children, parser.options, {})
                child.type = "html_inline"
                child.content = _picture(name, alt, pictures) if name in pictures else ""
            elif child.type == "link_open":
                target = str(child.attrGet("href"))
                if target.endswith("/report.md") and "://" not in target:  # one page leads to the next page
                    child.attrSet("href", target.removesuffix(".md") + ".html")
                child.attrSet("rel", "noreferrer")
    body = Markup(parser.renderer.render(tokens, parser.options, {}))
    return _environment().get_template("page.html.j2").render(title=redact(title), body=body)


def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _headings(tokens: Sequence[Token]) -> Iterator[tuple[Token, Token]]:
    """The heading of every section, and its text."""
    for opening, text in pairwise(tokens):
        if opening.type == "heading_open" and opening.tag == "h2":
            yield opening, text


def _anchor(heading: Token) -> str:
    """The name that a link to a heading uses, here and where Markdown is shown: `what-was-run`."""
    text = "".join(child.content for child in heading.children or [])
    return re.sub(r"[^\w-]", "", text.strip().casefold().replace(" ", "-"))


def _picture(name: str, alt: str, pictures: Mapping[str, bytes]) -> Markup:
    """A picture inside the page, with its narrow shape where it has one."""

    def address(name: str) -> str:
        return f"data:image/svg+xml;base64,{base64.b64encode(pictures[name]).decode()}"

    image = Markup('<img src="{}" alt="{}">').format(address(name), alt)
    if name + NARROW not in pictures:
        return image
    source = Markup('<source media="(max-width: 44rem)" srcset="{}">').format(address(name + NARROW))
    return Markup("<picture>{}{}</picture>").format(source, image)


def _environment(**options: Any) -> Environment:
    """Templates whose output is escaped: for HTML, or by `finalize` for Markdown."""
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=loader,
        **options,
    )
    environment.filters |= {
        "code": _code,
        "fenced": _fenced,
        "figure": _figure,
        "first_line": first_line,
        "floor_mark": pooled_mark,
        "link": _link,
        "mean": mean_text,
        "moment": _moment,
        "show": lambda score: score and show(score),
    }
    return environment


def first_line(text: str | None) -> str:
    """The first line of a message that has any."""
    return next(iter((text or "").strip().splitlines()), "")


def _escape(value: Any) -> Markup:
    if isinstance(value, Markup):
        return value
    return Markup("--" if value is None else _MARKUP.sub(r"\\\1", _line(str(value))))


def _code(name: str) -> Markup:
    """A name letter by letter, also between the pipes of a table."""
    return Markup(code_span(_line(name)).replace("|", r"\|") if _line(name) else "")


def _fenced(text: str | None) -> Markup:
    """The lines of a message as they were written; nothing where it has one line."""
    lines = [_line(line).rstrip() for line in (text or "").strip().splitlines()]
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text or "")), default=0))
    return Markup("\n".join([fence, *lines, fence]) if len(lines) > 1 else "")


def _figure(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)


def _link(text: str, target: str) -> Markup:
    """A link to another report, relative, or to a page of the web; any other target is shown as text."""
    is_web = target.startswith(("https://", "http://"))
    if (":" in target and not is_web) or target.startswith("//"):
        return _escape(text)
    return Markup(f"[{_escape(text)}]({quote(_line(target), safe='/:?=&%#~+,;@.-_')})")


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _line(text: str) -> str:
    """A text on one line, in characters that can be written and seen, without secrets."""
    return _CONTROL.sub(" ", redact(text.encode("utf-8", "replace").decode("utf-8")))
