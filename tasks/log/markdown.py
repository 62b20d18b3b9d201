"""The tables of any Markdown text, with the line of every row and the place of every cell.

Reading keeps the text as it is, so that one cell can be replaced and every other byte stays.
"""

import re
from dataclasses import dataclass

BOM = "\ufeff"
LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")  # the line ends of Markdown, not those of str.splitlines


@dataclass(frozen=True)
class TableRow:
    """A row: its line in the text, counted from 0, and the text of its cells."""

    line: int
    cells: tuple[str, ...]

    def cell(self, place: int | None) -> str:
        """The text of the cell in a column by its position, empty where there is none."""
        return self.cells[place] if place is not None and place < len(self.cells) else ""


@dataclass(frozen=True)
class Table:
    """A table; `line` is that of its header, counted from 0."""

    header: tuple[str, ...]
    line: int
    rows: tuple[TableRow, ...]


def read_tables(text: str) -> list[Table]:
    """Every table of a text in its order, outside code, comments, lists and quotes."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])  # places are needed, inline markup is not
    text = text.removeprefix(BOM)
    lines = LINE.findall(text)
    tables = []
    for token in parser.parse(text):
        if token.type == "table_open" and not token.level and token.map is not None:
            first, end = token.map
            # Markdown takes a line of prose right under a table for a row; its writer does not.
            places = [place for place in range(first + 2, end) if pipes(lines[place])]
            rows = tuple(TableRow(place, _cell_texts(lines[place])) for place in places)
            tables.append(Table(_cell_texts(lines[first]), first, rows))
    return tables


def split_cells(line: str) -> list[tuple[int, int]]:
    """Where the cells of a raw table line begin and end: between the pipes that no backslash escapes."""
    bars, end = pipes(line), len(line.rstrip())
    starts = [len(line) - len(line.lstrip()), *(bar + 1 for bar in bars)]
    spans = list(zip(starts, [*bars, end], strict=True))
    if spans[0][0] >= spans[0][1]:  # before the pipe that opens the line
        spans.pop(0)
    if spans and spans[-1][0] >= spans[-1][1]:  # behind the pipe that closes it
        spans.pop()
    return spans


def pipes(line: str) -> list[int]:
    """Where the pipes stand that no backslash escapes."""
    return [match.start() for match in re.finditer(r"(?<!\\)\|", line)]


def line_ending(line: str) -> str:
    """The line break at the end of a line, empty at the end of a file without one."""
    return line[len(line.rstrip("\r\n")) :]


def snake_case(title: str) -> str:
    """A title as a name of a column: `Speed (Steps/s)` is speed_steps_s."""
    return re.sub(r"[\W_]+", "_", title.casefold()).strip("_")


def _cell_texts(line: str) -> tuple[str, ...]:
    return tuple(line[start:end].strip().replace(r"\|", "|") for start, end in split_cells(line))
