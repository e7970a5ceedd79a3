# SPDX-License-Identifier: Apache-2.0
"""The page in a browser without a network: no complaint, no request, no page that scrolls sideways, keys suffice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monai_adversarial.audit.report import write_report
from tests.audit.report.browser import CHROMIUM, Browser
from tests.audit.report.example import example_summary, trimmed
from tests.audit.report.test_write import hostile

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page is not opened")
# Contrast of an element's text with what lies behind it (WCAG 2).
CONTRAST = """(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = channels(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll("main *, nav *, footer *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, #viewer-stage")) continue;
    const [text, paper] = [channels(getComputedStyle(element).color), behind(element)].map(luminance);
    const contrast = (Math.max(text, paper) + 0.05) / (Math.min(text, paper) + 0.05);
    if (contrast < 4.5) low.push(`${contrast.toFixed(2)} ${element.className} ${element.textContent.slice(0, 30)}`);
  }
  return low;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_read_on_every_screen(browser, written, width, scheme):
    browser.open(written.folder / "report.html", width, 800, scheme)
    assert browser.complaints == [] and browser.requests == []
    assert browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    wide = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && e.checkVisibility()"
    outside = f"{wide} && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '.' + e.className)"
    assert browser.value(outside) == []
    dark = browser.value("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    assert browser.value(CONTRAST) == []
    assert browser.value("document.querySelectorAll('main > section[id], main > header[id]').length") >= 13
    assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_the_page_is_used_by_keyboard(browser, written):
    browser.open(written.folder / "report.html")
    seen = []
    for _ in range(12):
        browser.key("Tab")
        seen.append(browser.value("document.activeElement.getAttribute('href') || document.activeElement.tagName"))
        outline = browser.value("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid" or seen[-1] == "BODY"
    assert seen[0] == "#main" and "#cards" in seen
    unreachable = "[...document.querySelectorAll('.scroll')].filter(e => e.tabIndex !== 0 || !e.ariaLabel).length"
    assert browser.value(unreachable) == 0


def test_the_viewer_opens_without_a_network(browser, written):
    browser.open(written.folder / "report.html")
    browser.value("document.getElementById('viewer-open').focus()")
    browser.key("Enter")
    browser.wait("document.getElementById('viewer-says').textContent.includes('image')")
    assert "adversarial image, gray from -160 to 240" in browser.value(
        "document.getElementById('viewer-says').textContent"
    )
    assert browser.value("document.getElementById('viewer-canvas').checkVisibility()")
    browser.value("document.querySelector('input[value=difference]').click()")
    browser.wait("document.getElementById('viewer-says').textContent.includes('minus clean; black is −8.00')")
    assert browser.complaints == [] and browser.requests == []


def test_the_page_is_printed_open(browser, written, tmp_path):
    browser.open(written.folder / "report.html")
    browser.value("dispatchEvent(new Event('beforeprint'))")
    assert browser.value("document.querySelectorAll('details:not([open]):not(.unprinted)').length") == 0
    browser.value("dispatchEvent(new Event('afterprint'))")
    assert browser.value("document.querySelectorAll('.fold[open]').length") == 0
    browser.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_hostile_names_do_nothing(browser, tmp_path):
    summary = hostile(trimmed(example_summary(), "motion", "pgd_4", "pgd_8"))
    path = write_report(summary, tmp_path)["report.html"]
    browser.open(path)
    assert browser.value("typeof window.broken") == "undefined"
    assert browser.complaints == [] and browser.requests == []
    assert browser.value("document.querySelectorAll('img, iframe, object').length") == 0
    assert browser.value("document.title").startswith("Abdominal U-Net on phantoms<script>")
    assert browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
