"""The rooms of the package hold: imports point one way, without circles, and sizes stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lib" / "darkroom"
JOBS = Path(__file__).parent.parent / "jobs"
# Whoever stands further up may import what stands further down, and what stands beside it.
FLOORS = (
    ("jobs", "api", "cli", "exits", "submit", "starter", "studio"),
    ("retrain",),
    ("sample", "batch", "training", "evaluation", "report", "export"),
    ("runs", "models", "manifest", "ray_cluster", "metrics"),
    ("storage", "sampling", "phases", "front_door"),
)
LINES, FUNCTION_LINES, JOB_LINES = 400, 60, 150


def modules() -> dict[str, Path]:
    """Every module by its dotted name, packages by their own."""
    found = {}
    for root, prefix in ((PACKAGE, "darkroom"), (JOBS, "darkroom.jobs")):
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if prefix == "darkroom" and parts[0] == "jobs":
                continue
            found[".".join([prefix, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()


def imports(name: str, path: Path, everywhere: bool = True) -> Iterator[str]:
    """Modules of ours that this one imports. everywhere: in functions too, and for types alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("darkroom"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("darkroom"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def floor(name: str) -> int | None:
    room = name.split(".")[1] if "." in name else ""
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms), None)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name: str) -> None:
    own = floor(name)
    if own is None:
        assert name == "darkroom", f"{name} stands on no floor: say in FLOORS where it belongs"
        return
    above = {other for other in imports(name, MODULES[name]) if (at := floor(other)) is not None and at < own}
    assert not above, f"{name} imports what stands above it: {sorted(above)}"


def test_no_file_imports_itself_around_a_corner() -> None:
    inner = MODULES.keys() - {"darkroom"}  # the front door: it names all rooms, and has the version that they ask for
    graph = {name: set(imports(name, MODULES[name])) & inner - {name} for name in inner}
    while leaves := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in leaves:
            del graph[name]
    while roots := [name for name in graph if not any(name in needs for needs in graph.values())]:
        for name in roots:
            del graph[name]
    assert not graph, f"in a circle, or between two: {sorted(graph)}"


@pytest.mark.parametrize("name", MODULES)
def test_sizes(name: str) -> None:
    text = MODULES[name].read_text()
    most = JOB_LINES if name.startswith("darkroom.jobs.") else LINES
    assert text.count("\n") <= most, f"{name} has more than {most} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            limit = JOB_LINES if name.startswith("darkroom.jobs.") else FUNCTION_LINES
            assert length <= limit, f"{name}.{node.name} has {length} lines, wanted at most {limit}"
