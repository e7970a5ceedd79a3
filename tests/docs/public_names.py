# SPDX-License-Identifier: Apache-2.0
"""The public names of the package, read from its files without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.docs.pages import ROOT

__all__ = ["Definition", "definition", "exported", "public_names"]

PACKAGE = "monai_adversarial"


@dataclass(frozen=True)
class Definition:
    """Where a public name is made.

    Args:
        module: dotted path of the module that makes it.
        name: of the class or function there; aliases share it.
        text: its docstring, or what the call that makes it is given as text; None for constants.
    """

    module: str
    name: str
    text: str | None


def public_names() -> dict[str, Definition]:
    """Each name in the ``__all__`` of a package, as ``room.name``, and where it is made."""
    found = {}
    for file in sorted((ROOT / PACKAGE).rglob("__init__.py")):
        module = ".".join(file.parent.relative_to(ROOT).parts)
        for name in exported(module):
            found[f"{module.removeprefix(PACKAGE + '.')}.{name}"] = definition(module, name)
    return found


@cache
def exported(module: str) -> tuple[str, ...]:
    """``__all__`` of a module: a list, a sorted dictionary, and the ``__all__`` of others that it adds."""
    names: list[str] = []
    for node in _tree(module).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not (isinstance(target, ast.Name) and target.id == "__all__"):
            continue
        value = node.value  # type: ignore[attr-defined]
        if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
            names += exported(_imported_module(module, value.value.id))
        elif isinstance(value, ast.Call):  # sorted(_MODULES)
            names += sorted(_lazy(module))
        else:
            names += ast.literal_eval(value)
    return tuple(names)


def definition(module: str, name: str) -> Definition:
    """Where a name of a module is made: through imports, aliases and names that load on first use.

    Raises:
        LookupError: for a name that the module does not have.
    """
    if name in _lazy(module):
        return definition(f"{module}.{_lazy(module)[name]}", name)
    for node in _statements(_tree(module)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return Definition(module, name, ast.get_docstring(node) or "")
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return definition(str(node.module), alias.name)
                if alias.name == "*" and name in exported(str(node.module)):
                    return definition(str(node.module), name)
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in _targets(node):
            if isinstance(node.value, ast.Name):
                return definition(module, node.value.id)
            return Definition(module, _targets(node)[-1], _made_with(node.value))
    raise LookupError(f"{module} has no {name}")


def _made_with(value: ast.expr | None) -> str | None:
    """The text that a dictionary form is made with; None for a constant."""
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and "dictionary_form" in value.func.id):
        return None
    given = [*value.args, *(keyword.value for keyword in value.keywords)]
    return "\n".join(str(one.value) for one in given if isinstance(one, ast.Constant))


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements of a module, those in its conditions included."""
    for node in tree.body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from (inner for inner in ast.walk(node) if isinstance(inner, ast.stmt) and inner is not node)


def _lazy(module: str) -> dict[str, str]:
    """Names that load on first use, and the file of each."""
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and _targets(node) == ["_MODULES"]:
            return dict(ast.literal_eval(node.value))
    return {}


def _imported_module(module: str, name: str) -> str:
    """The dotted path of a module that another one imports."""
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            return f"{node.module}.{name}"
    raise LookupError(f"{module} imports no {name}")


@cache
def _tree(module: str) -> ast.Module:
    path = ROOT / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))
