"""The house in figures and as a picture: how large its rooms are, and whether every import runs downwards.

Run: `python benchmarks/house.py [FOLDER]` prints the figures of a checkout, by default this one.
`python benchmarks/house.py --draw docs/floors.svg` draws the rooms on their floors; a test keeps the picture true.

A room is a file or package directly in `flows/` or `tasks/`; `models/` is one room, since its files are published flat.
Results stand in docs/benchmarks.md.
"""

import argparse
import ast
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cogito", "flows", "tasks", "models")
LONG_FUNCTION_LINES = 60
MANY_PARAMETERS = 7
DUPLICATE_LINES = 6
Arrows = dict[str, set[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_files(root: Path) -> list[Path]:
    """Every Python file of the product."""
    return sorted(path for name in PACKAGES for path in (root / name).rglob("*.py"))


def room_of(module: str) -> str:
    """The room that a module lies in: `tasks.log` for `tasks.log.check.figures`."""
    return ".".join(module.split(".")[: 1 if module.startswith("models") else 2])


def arrows_between_rooms(root: Path) -> Arrows:
    """For every room those it imports from, also inside functions."""
    sys.path.insert(0, str(root))
    graph = grimp.build_graph(*(name for name in PACKAGES if (root / name).is_dir()), cache_dir=None)
    arrows: Arrows = defaultdict(set)
    for module in graph.modules:
        room = room_of(module)
        arrows[room] |= {room_of(name) for name in graph.find_modules_directly_imported_by(module)} - {room}
    packages = {room for room in arrows if room in PACKAGES and room != "models"}  # their __init__ is no room
    return {room: targets - packages for room, targets in sorted(arrows.items()) if room not in packages}


def circles(arrows: Arrows) -> list[set[str]]:
    """The groups of rooms that reach each other: strongly connected, larger than one room."""
    reach: Arrows = {}
    for start in arrows:
        seen: set[str] = set()
        ahead = list(arrows[start])
        while ahead:
            room = ahead.pop()
            if room not in seen:
                seen.add(room)
                ahead += arrows.get(room, ())
        reach[start] = seen
    groups = {frozenset({room, *(other for other in reach[room] if room in reach[other])}) for room in arrows}
    return [set(group) for group in groups if len(group) > 1]


def arrows_up(arrows: Arrows) -> int:
    """How many imports run back up when the rooms stand as well as they can: those that close a circle."""
    count = 0
    for circle in circles(arrows):
        left = set(circle)
        while left:  # take out the room that most of the others need least: its remaining importers look up to it
            room = min(sorted(left), key=lambda name: sum(name in arrows[other] for other in left))
            left.remove(room)
            count += sum(room in arrows[other] for other in left)
    return count


def floors(arrows: Arrows) -> list[list[str]]:
    """The rooms from the ground floor up: one floor above the highest room that they import, package above package."""
    height: dict[str, int] = {}
    for package in reversed(PACKAGES):
        ground = 1 + max(height.values(), default=-1)
        rooms = [room for room in arrows if room.split(".")[0] == package]

        def floor_of(room: str, ground: int = ground) -> int:
            if room not in height:
                height[room] = max(ground, 1 + max((floor_of(target) for target in arrows[room]), default=-1))
            return height[room]

        for room in rooms:
            floor_of(room)
    return [sorted(room for room in arrows if height[room] == floor) for floor in range(max(height.values()) + 1)]


def without_shortcuts(arrows: Arrows) -> Arrows:
    """The arrows but those that a longer way says already: what a picture needs to show who stands on whom."""

    def reach(room: str) -> set[str]:
        return {room}.union(*(reach(target) for target in arrows[room]))

    return {
        room: {target for target in targets if not any(target in reach(other) for other in targets - {target})}
        for room, targets in arrows.items()
    }


def draw(arrows: Arrows) -> str:
    """The floors as SVG: a box a room, a line an import that does not follow from others."""
    width, box, step, top = 1400, 128, 78, 40
    rows = floors(arrows)
    place: dict[str, tuple[float, float]] = {}
    for level, row in enumerate(rows):
        for number, room in enumerate(row):
            place[room] = (width * (number + 1) / (len(row) + 1), top + step * (len(rows) - 1 - level))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top + step * len(rows)}" '
        'font-family="sans-serif" font-size="13" text-anchor="middle">',
        "<title>The rooms of Cogito on their floors; every import runs downwards</title>",
        f'<rect width="{width}" height="{top + step * len(rows)}" fill="#fdfcf8"/>',
    ]
    for room, targets in without_shortcuts(arrows).items():
        x, y = place[room]
        for target in sorted(targets):
            u, v = place[target]
            path = f"M{x:.0f} {y + 15:.0f} C{x:.0f} {y + 45:.0f} {u:.0f} {v - 45:.0f} {u:.0f} {v - 15:.0f}"
            parts.append(f'<path d="{path}" fill="none" stroke="#8899aa"/>')
    colours = {"flows": "#dbe9f6", "tasks": "#e6f2dd", "models": "#f8e3d0", "cogito": "#eee0f4"}
    for room, (x, y) in place.items():
        colour = colours[room.split(".")[0]]
        parts.append(
            f'<rect x="{x - box / 2:.0f}" y="{y - 15:.0f}" width="{box}" height="30" rx="5" fill="{colour}" '
            f'stroke="#556"/><text x="{x:.0f}" y="{y + 5:.0f}">{escape(room.replace(".", "/"))}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function of a file, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def public_definitions(tree: ast.Module) -> Iterator[Function | ast.ClassDef]:
    """The functions, classes and methods that others may use."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (inner for inner in node.body if isinstance(inner, Function) and inner.name[0] != "_")


def duplicated_runs(files: list[Path]) -> int:
    """Runs of at least six lines of code that stand in more than one place, each counted once per further place."""
    places: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path in files:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        code = [line for line in lines if len(line) > 4 and not line.startswith(("#", '"""', "import ", "from "))]
        for start in range(len(code) - DUPLICATE_LINES + 1):
            places[tuple(code[start : start + DUPLICATE_LINES])].append((path, start))
    again = sorted({place for found in places.values() for place in found[1:]})
    follows = sum(a[0] == b[0] and a[1] + 1 == b[1] for a, b in pairwise(again))
    return len(again) - follows


def figures(root: Path) -> dict[str, object]:
    """What the issue of a house that is too big to hold is measured by."""
    files = source_files(root)
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    lengths = {path: text.count("\n") for path, text in texts.items()}
    longest = max(files, key=lengths.__getitem__)
    all_functions = [function for tree in trees.values() for function in functions(tree)]
    inner = {node for f in all_functions for node in ast.walk(f) if isinstance(node, ast.Import | ast.ImportFrom)}
    public = [node for tree in trees.values() for node in public_definitions(tree)]
    arrows = arrows_between_rooms(root)
    rings = circles(arrows)
    return {
        "files": len(files),
        "lines": sum(lengths.values()),
        "median file, lines": statistics.median(lengths.values()),
        "longest file, lines": f"{lengths[longest]} ({longest.relative_to(root).as_posix()})",
        f"functions over {LONG_FUNCTION_LINES} lines": sum(
            (f.end_lineno or 0) - f.lineno + 1 > LONG_FUNCTION_LINES for f in all_functions
        ),
        f"functions over {MANY_PARAMETERS} parameters": sum(
            len(f.args.args) + len(f.args.kwonlyargs) > MANY_PARAMETERS for f in all_functions
        ),
        "imports inside functions": len(inner),
        "fmt: skip": sum(text.count("fmt: " + "skip") for text in texts.values()),
        "public docstrings": f"{sum(ast.get_docstring(node) is not None for node in public) / len(public):.1%}",
        "rooms": len(arrows),
        "arrows between rooms": sum(map(len, arrows.values())),
        "arrows up": arrows_up(arrows),
        "circles": f"{len(rings)}" + "".join(f" (of {len(ring)} rooms)" for ring in rings),
        "duplicated runs": duplicated_runs(files),
    }


def main() -> None:
    """Print the figures, or draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, help="a checkout; default this one")
    parser.add_argument("--draw", type=Path, metavar="FILE.svg", help="draw the floors instead")
    options = parser.parse_args()
    if options.draw:
        options.draw.write_text(draw(arrows_between_rooms(options.folder.resolve())), encoding="utf-8")
        return
    for name, value in figures(options.folder.resolve()).items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
