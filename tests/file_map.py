"""Write docs/map.md, every file of the code in a sentence: `python -m tests.file_map`.

The sentences are the first lines of the modules' docstrings; folders stand in the order of the flow
of `tests/test_house.py`. Nothing is imported, the files are only parsed.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from tests import ROOT
from tests.test_house import LAYERS

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "map.md"
HEAD = """# Every file in a sentence

Made by `python -m tests.file_map` from the first lines of the modules' docstrings; a test holds it
current. Folders stand in the order in which the data flows: a folder below `seq_ml` imports only
from those above it. The tests stand in the same tree (`tests/clean/` for `seq_ml/clean/`);
`tests/journeys/` has what crosses it.
"""
PACKAGES = {
    "seq_ml": "the library, without Dagster: HOW",
    "seq_assets": "the Dagster definitions: WHEN and WHERE",
    "benchmarks": "what makes the numbers of docs/benchmarks*.md",
}


def sentence(path: Path) -> str:
    """First line of a module's docstring; ValueError when it has none."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    if not docstring:
        raise ValueError(f"{path.relative_to(ROOT)} has no docstring: begin it with what is in it")
    return docstring.splitlines()[0].replace("|", "\\|")


def folders(package: str) -> list[Path]:
    """Folders of a package that hold code, in the order of the flow, outer before inner."""
    floors = [room for rooms in LAYERS for room in rooms]
    found = {path.parent for path in (ROOT / package).rglob("*.py")}

    def place(folder: Path) -> tuple[int, tuple[str, ...]]:
        parts = folder.relative_to(ROOT / package).parts
        return (floors.index(parts[0]) if parts and parts[0] in floors else -1, parts)

    return sorted(found, key=place)


def file_map() -> str:
    """Return the page."""
    lines = [HEAD]
    for package, what in PACKAGES.items():
        lines.append(f"## {package}: {what}\n")
        for folder in folders(package):
            name = folder.relative_to(ROOT).as_posix()
            door = folder / "__init__.py"
            says = sentence(door) if door.exists() else ""
            lines += [f"### {name}/\n", *([f"{says}\n"] if says else [])]
            lines += ["| file | what is in it |", "|---|---|"]
            lines += [
                f"| [{path.name}](../{name}/{path.name}) | {sentence(path)} |"
                for path in sorted(folder.glob("*.py"))
                if path != door
            ]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(file_map())
