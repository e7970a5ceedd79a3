# SPDX-License-Identifier: Apache-2.0
"""Sphinx: ``python -m sphinx -W -b html docs docs/_build/html`` (extra ``docs``)."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

import monai_adversarial  # noqa: E402
from benchmarks import error_sentences  # noqa: E402

project = "MONAI Adversarial"
author = "The authors of monai_adversarial"
copyright = author  # noqa: A001
version = release = monai_adversarial.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
# search.html is Sphinx's own page, so that docs/search.md becomes another one below.
exclude_patterns = ["_build", "_templates", "search.md"]
templates_path = ["_templates"]

# Pages are read on the web and in an editor as well: plain Markdown with anchors for headings.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
# Links to code and tests lead to files of the repository, which become downloads.
suppress_warnings = ["myst.header", "myst.strikethrough"]

# What the rooms of the package say in ``__all__`` is public.
autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_mock_imports: list[str] = []
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # what "Attributes:" lists is a member as well
napoleon_custom_sections = [("Source", "notes_style"), ("Parameters it has", "notes_style")]

html_theme = "pydata_sphinx_theme"  # that of MONAI's own documentation
html_title = f"MONAI Adversarial {release}"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_show_sourcelink = False
smartquotes = False  # sentences and calls are copied
html_sidebars = {"**": ["all_pages.html"]}
html_copy_source = False
html_theme_options = {
    "navigation_depth": 2,
    "show_nav_level": 1,
    "navbar_center": [],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
}


# Pages of the repository outside of docs/ that pages link to (README, the bundles' pages) are copied into the
# documentation, so that every link leads somewhere offline.
_ROOT = DOCS.parent
_COPIES = DOCS / "generated" / "repository"
_LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)]*)?(\))")


def _outside(page: Path) -> bool:
    return DOCS not in page.parents or page == DOCS / "search.md"


def _copy_of(page: Path) -> Path:
    if page == DOCS / "search.md":
        return DOCS / "generated" / "steps_to_dice.md"
    return _COPIES / ("-".join(page.relative_to(_ROOT).with_suffix("").parts) + ".md")


def _redirected(text: str, original: Path, where: Path) -> str:
    """The text of the page ``original`` with links that hold for a page in the folder ``where``."""

    def link(match: re.Match[str]) -> str:
        target = (original.parent / match.group(2)).resolve()
        if not target.exists():
            return match.group(0)
        if target.suffix == ".md" and _outside(target):
            target = _copy_of(target)
        elif target.is_dir():  # nothing to show or to download
            return f"]({os.path.relpath(_listing(target), where)})"
        return f"{match.group(1)}{os.path.relpath(target, where)}{match.group(3) or ''}{match.group(4)}"

    return _LINK.sub(link, text)


def _listing(folder: Path) -> Path:
    """A file with the names of a folder's files, to stand for the folder."""
    file = _COPIES / ("-".join(folder.relative_to(_ROOT).parts) + ".txt")
    file.write_text("\n".join(sorted(item.name for item in folder.iterdir())) + "\n", encoding="utf-8")
    return file


def _linked_pages() -> list[Path]:
    """Pages outside of docs/ that pages in it, or one another, link to."""
    waiting, found = [page for page in DOCS.rglob("*.md") if not {"_build", "generated"} & set(page.parts)], []
    while waiting:
        page = waiting.pop()
        for match in _LINK.finditer(page.read_text(encoding="utf-8")):
            target = (page.parent / match.group(2)).resolve()
            if target.suffix == ".md" and target.exists() and _outside(target) and target not in found:
                found.append(target)
                waiting.append(target)
    return sorted(found)


def _copy_pages(app: object) -> None:
    _COPIES.mkdir(parents=True, exist_ok=True)
    (DOCS / "generated" / "all_errors.md").write_text(error_sentences.page(), encoding="utf-8")
    for page in _linked_pages():
        copy = _copy_of(page)
        text = _redirected(page.read_text(encoding="utf-8"), page, copy.parent)
        copy.write_text(f"---\norphan: true\n---\n\n{text}", encoding="utf-8")


def _read(app: object, name: str, source: list[str]) -> None:
    page = DOCS / f"{name}.md"
    if page.exists() and DOCS / "generated" not in page.parents:
        source[0] = _redirected(source[0], page, page.parent)


def setup(app: Any) -> None:
    """Register the copies with Sphinx."""
    app.connect("builder-inited", _copy_pages, priority=400)
    app.connect("source-read", _read)
