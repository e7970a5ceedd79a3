# SPDX-License-Identifier: Apache-2.0
"""The documentation builds without a warning, and every link in it leads somewhere, offline."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("sphinx")
pytest.importorskip("myst_parser")
pytest.importorskip("pydata_sphinx_theme")


class _Links(HTMLParser):
    """Links, pictures and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and (name, tag) in (("href", "a"), ("src", "img"), ("src", "script"), ("href", "link")):
                self.links.append(value)
            if value and name in ("id", "name"):
                self.anchors.add(value)


def extensions() -> list[str]:
    """Those of ``docs/conf.py``, which is not run here: it reads the whole package."""
    tree = ast.parse((ROOT / "docs" / "conf.py").read_text(encoding="utf-8"))
    (found,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "extensions"
    ]
    return list(found)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    # Listings of all source files, which are Sphinx's own, take as long as all pages together.
    command += ["-D", f"extensions={','.join(name for name in extensions() if name != 'sphinx.ext.viewcode')}"]
    done = subprocess.run([*command, "docs", str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.mark.slow
def test_every_page_is_built(built: Path) -> None:
    pages = {file.relative_to(ROOT / "docs").with_suffix("") for file in (ROOT / "docs").rglob("*.md")}
    pages = {page for page in pages if page.parts[0] not in ("generated", "_build")} - {Path("search")}
    assert (built / "generated" / "steps_to_dice.html").exists()  # search.html is Sphinx's own page
    lost = [page for page in pages if not (built / page).with_suffix(".html").exists()]
    assert len(pages) > 20 and not lost
    signature = (built / "generated" / "monai_adversarial.attacks.PGD.html").read_text(encoding="utf-8")
    assert "epsilon" in re.sub(r"<[^>]+>", "", signature.split("<dt", 1)[1].split("</dt>", 1)[0])


@pytest.mark.slow
def test_every_link_leads_somewhere(built: Path) -> None:
    # Templates of the theme are no pages of ours.
    files = [file for file in built.rglob("*.html") if file.relative_to(built).parts[0] != "_static"]
    found = {file: _Links(file.read_text(encoding="utf-8")) for file in files}
    lost = []
    for file, page in found.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.exists():
                lost.append(f"{file.relative_to(built)}: {link}")
            elif parts.fragment and target in found and unquote(parts.fragment) not in found[target].anchors:
                lost.append(f"{file.relative_to(built)}: {link} (no such anchor)")
    assert len(found) > 100 and not lost, lost[:20]
