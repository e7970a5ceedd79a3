# SPDX-License-Identifier: Apache-2.0
"""Imports go one way: no room imports from a floor above it, and no file is in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "monai_adversarial"
# Rooms of one floor may not import each other, except that losses serve handlers and purifiers their networks.
FLOORS = {
    "utils": 0,
    "networks": 1,
    "metrics": 1,
    "purifiers": 2,
    "inferers": 3,
    "models": 4,
    "data": 5,
    "attacks": 5,
    "poisoning": 6,
    "classical": 6,
    "detection": 6,
    "generators": 6,
    "engines": 6,
    "losses": 6,
    "transforms": 6,
    "handlers": 7,
    "studies": 7,
    "audit": 8,
}


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports when it runs, those inside functions included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in only_for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("monai_adversarial"):
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                found.add(inner if is_module(inner) else node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.startswith("monai_adversarial.")}
    return found


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def room_of(module: str) -> str:
    parts = module.split(".")
    # The command line of the package is no room.
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else ""


FILES = {module_of(path): imports_of(path) for path in sorted(PACKAGE.rglob("*.py"))}


def test_every_room_has_its_floor() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= set(FLOORS)


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module: str) -> None:
    room = room_of(module)
    if not room:
        return
    above = [
        imported
        for imported in FILES[module]
        if room_of(imported) not in ("", room) and FLOORS[room_of(imported)] >= FLOORS[room]
    ]
    assert not above, f"{module} imports {above}"


def test_no_file_is_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"circle: {' -> '.join((*way[way.index(module) :], module))}"
        if module in done:
            return
        for imported in FILES.get(module, ()):
            # A package's __init__ runs before its files, which is no circle of files.
            if not module.startswith(f"{imported}."):
                visit(imported, (*way, module))
        done.add(module)

    for module in FILES:
        visit(module, ())
