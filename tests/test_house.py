"""The house: imports point down the tree, nothing runs in a circle, and every door has its layer.

All imports count: at the top of a module, inside a function, and those for type checking.
"""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests import ROOT

LAYERS = (
    ("roles",),
    ("settings", "business"),
    ("periods",),
    ("schema",),
    ("sources",),
    ("storage",),
    ("metrics",),
    ("pages",),
    ("privacy",),
    ("language",),
    ("ingest",),
    ("clean",),
    ("sequences",),
    ("tokens",),
    ("encoder",),
    ("tasks",),
    ("evaluation",),
    ("registry",),
    ("tables",),
    ("erasure",),
)
"""Rooms of `seq_ml` in the order in which the data flows; each imports only earlier ones."""
FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}
MOST_ARROWS = {"tasks": 40, "encoder": 50}
"""Pairs of rooms inside a folder of which one imports the other."""


@cache
def imports() -> dict[str, frozenset[str]]:
    """Every module of the two packages, and which of them it imports."""
    packages = [ROOT / "seq_ml", ROOT / "seq_assets"]
    files = [path for package in packages for path in package.rglob("*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    found = {}
    for name, path in names.items():
        targets: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names} & names.keys()
                targets |= inner
                if len(inner) < len(node.names):
                    targets.add(node.module)
            elif isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
        found[name] = frozenset(targets & names.keys() - {name})
    return found


def room(module: str, depth: int) -> str:
    return ".".join(module.split(".")[:depth])


def arrows(depth: int, inside: str) -> set[tuple[str, str]]:
    """Pairs of rooms (folders, or modules beside them) below `inside`, importer first."""
    pairs = {
        (room(module, depth), room(target, depth))
        for module, targets in imports().items()
        for target in targets
        if module.startswith(inside) and target.startswith(inside)
    }
    return {(a, b) for a, b in pairs if a != b and b != inside.removesuffix(".")}


def circle(pairs: set[tuple[str, str]]) -> list[str]:
    """One circle among the pairs, or nothing."""
    after: dict[str, set[str]] = {}
    for a, b in pairs:
        after.setdefault(a, set()).add(b)
    state: dict[str, int] = {}

    def visit(node: str, path: list[str]) -> list[str]:
        state[node] = 1
        for following in sorted(after.get(node, ())):
            if state.get(following) == 1:
                return [*path[path.index(following) :], following]
            if following not in state and (found := visit(following, [*path, following])):
                return found
        state[node] = 2
        return []

    for start in sorted(after):
        if start not in state and (found := visit(start, [start])):
            return found
    return []


def test_every_room_has_its_floor():
    rooms = {module.split(".")[1] for module in imports() if module.startswith("seq_ml.")}
    assert rooms <= FLOOR.keys(), "name the floor of a new room in LAYERS"


def test_imports_point_down_the_tree():
    against = [
        f"{module} imports {target}"
        for module, targets in imports().items()
        for target in targets
        if module.startswith("seq_ml.")
        if not target.startswith("seq_ml.")
        or FLOOR[target.split(".")[1]] > FLOOR[module.split(".")[1]]
    ]
    assert not against


@pytest.mark.parametrize(
    ("depth", "inside"),
    [(2, "seq_ml."), (3, "seq_ml.tasks."), (3, "seq_ml.encoder."), (3, "seq_ml.ingest."),
     (3, "seq_ml.clean."), (9, "seq_ml."), (2, "seq_assets."), (9, "seq_assets.")],
)  # fmt: skip
def test_nothing_runs_in_a_circle(depth, inside):
    """Among the rooms of the library, of its large folders, and among all modules."""
    assert not circle(arrows(depth, inside))


@pytest.mark.parametrize("folder", MOST_ARROWS)
def test_few_doors_between_the_rooms_of_a_folder(folder):
    found = arrows(3, f"seq_ml.{folder}.")
    assert len(found) <= MOST_ARROWS[folder], sorted(found)


def test_no_task_imports_its_judge():
    judges = {
        module
        for module, targets in imports().items()
        if module.startswith("seq_ml.tasks") and any("seq_ml.evaluation" in t for t in targets)
    }
    assert not judges


def test_the_library_knows_no_dagster():
    for path in (ROOT / "seq_ml").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.split(".")[0] == "dagster" for name in names), path
