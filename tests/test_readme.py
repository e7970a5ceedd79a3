# SPDX-License-Identifier: Apache-2.0
"""Every snippet of the README runs as it stands, on small parts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents

from benchmarks import readme_example, readme_table
from benchmarks.doc_tables import replace_table
from tests.readme_parts import BEFORE, ROOT, blocks, bright_organ, engine_parts, network, write_bundle, write_files

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PURIFIERS, TRAINING = "docs/purifiers.md", "docs/adversarial_training.md"
QUICK_START = (ROOT / "docs" / "quick_start.md").read_text(encoding="utf-8")
#: what the table of configs says
ENGINES = re.findall(r"^\| `(\w+)` \| (.*?) \|$", QUICK_START, re.MULTILINE)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], str]]:
    """The names after each python block, and what it printed."""
    folder = tmp_path_factory.mktemp("readme")
    image, label = bright_organ()
    trainer_parts, evaluator_parts = engine_parts()
    names: dict[str, Any] = {
        **{"network": network(), "image": image, "label": label},
        **{"trainer_parts": trainer_parts, "evaluator_parts": evaluator_parts},
        "evaluator": SupervisedEvaluator(**evaluator_parts),
    }
    write_files(folder)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(BEFORE, "before", "exec"), names)
        for block in blocks("README.md"):
            printed: list[str] = []
            names["print"] = lambda *values, sep=" ", to=printed: to.append(sep.join(map(str, values)))
            exec(compile(block, "README.md", "exec"), names)  # the page is ours
            found.append((dict(names), "\n".join(printed)))
    return found


def test_the_script_attacks_within_its_budget(ran: list[tuple[dict[str, Any], str]]) -> None:
    names, printed = ran[0]
    result = names["result"]
    assert result.clean_dice.item() == pytest.approx(1.0)
    assert bool(result.success.all()) and result.adversarial_dice.item() < 0.5
    assert 7.9 < float((result.adversarial - names["image"]).abs().max()) <= 8.001
    lines = printed.splitlines()
    assert len(lines) == 3 and lines[0].startswith("PGD(8, units='HU', steps=10) on AttackedModel(")
    assert "intensity=<-160..240 HU -> 0..1>" in lines[0]
    assert "Dice below 0.5 times the clean Dice" in lines[1]


def test_what_the_readme_shows_as_printed_has_the_words_that_are_printed(ran: list[tuple[dict[str, Any], str]]) -> None:
    shown = blocks("README.md", "text")[0]

    def words(text: str) -> list[str]:
        return re.findall(r"[A-Za-z_]{3,}", text.replace("UNet", "LinearNetwork"))

    assert words(shown) == words(ran[0][1])


def test_what_the_readme_shows_as_printed_was_printed_by_a_run_of_it() -> None:
    found = json.loads(readme_example.SOURCE.read_text(encoding="utf-8"))
    assert readme_example.with_printed(TEXT, found) == TEXT
    found["printed"][-1] = found["printed"][-1].replace("12 forward", "13 forward")
    assert readme_example.with_printed(TEXT, found) != TEXT
    with pytest.raises(ValueError, match="one block of text, found 0"):
        readme_example.with_printed("no block", found)


def test_the_pipeline_attacks_a_file(ran: list[tuple[dict[str, Any], str]]) -> None:
    names, _ = ran[1]
    image, label = bright_organ()
    clean = ((image[0].to(torch.int16) + 160) / 400).clamp(0, 1)
    changed = (names["attacked"]["image"].as_tensor() - clean).abs()
    assert 0.01 < float(changed.max()) <= 0.3
    prediction = names["network"](names["attacked"]["image"][None].as_tensor()).argmax(dim=1)
    assert float((prediction != label[0]).float().mean()) > 0.05


@pytest.mark.parametrize(("kind", "change"), ENGINES)
def test_the_overlay_attacks_each_kind_of_config(
    kind: str,
    change: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (overlay,) = blocks("README.md", "yaml")
    assert blocks("docs/quick_start.md", "yaml") == [overlay]
    if change != "none":
        overlay = re.sub(r'engine: "@evaluator"', re.findall(r'`(engine: "@.*?")`', change)[0], overlay)
    if "training: true" in change:
        overlay = overlay.replace("+initialize", "  training: true\n+initialize")
    place = re.findall(r'engine: "@(.*?)"', overlay)[0]
    file = tmp_path / "overlay.yaml"
    file.write_text(overlay, encoding="utf-8")
    config = write_bundle(tmp_path, place)
    workflow = ConfigWorkflow([str(config), str(file)], logging_file=False, meta_file=None, workflow_type="infer")
    workflow.initialize()
    engine = workflow.parser.get_parsed_content(place)
    changes: list[float] = []

    @engine.on(IterationEvents.FORWARD_COMPLETED)
    def look(engine: Any) -> None:
        changes.append(float((engine.state.output["image"] - engine.state.batch["image"]).abs().max()))

    workflow.run()
    workflow.finalize()
    assert changes == pytest.approx([8 / 400], rel=1e-3)
    said = capsys.readouterr().out + caplog.text
    assert "attacks `LinearNetwork` behind `SlidingWindowInferer`, -160..240 HU -> 0..1 from `preprocessing#2`" in said
    assert "PGD budget 8 HU = 0.0200" in said
    assert kind != "train" or engine.state.epoch == 1


def test_the_table_names_three_kinds_of_config() -> None:
    assert [kind for kind, _ in ENGINES] == ["inference", "evaluate", "train"]


@pytest.mark.parametrize("page", [PURIFIERS, TRAINING])
def test_snippets_of_other_pages_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    image, label = bright_organ()
    trainer_parts, evaluator_parts = engine_parts()
    names: dict[str, Any] = {"trainer_parts": trainer_parts, "evaluator_parts": evaluator_parts}
    names |= {"network": network(), "image": image, "label": label}
    exec(compile(BEFORE, "before", "exec"), names)
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)  # the page is ours
    if page == PURIFIERS:
        assert names["unaware"].adversarial_dice < names["unaware"].clean_dice
        assert names["aware"].adversarial_dice < names["aware"].clean_dice
        scan = {"image": "scan.nii.gz"}
        before, behind = (names[place](scan)["image"] for place in ("before", "behind"))
        assert float((before - behind).abs().max()) < 0.05
    else:
        names["trainer"].run()
        names["evaluator"].run()
        assert names["evaluator"].state.metrics["pgd_mean_dice"] < 0.9


def test_the_overlay_of_a_defended_network_attacks_through_its_purifier(tmp_path: Path) -> None:
    defended, adversary = blocks(PURIFIERS, "yaml")
    file = tmp_path / "overlay.yaml"
    file.write_text(defended + adversary, encoding="utf-8")
    config = write_bundle(tmp_path, "evaluator")
    workflow = ConfigWorkflow([str(config), str(file)], logging_file=False, meta_file=None, workflow_type="infer")
    workflow.initialize()
    workflow.run()
    attacked = workflow.parser.get_parsed_content("adversary")
    assert "behind `PurifiedInferer`" in str(attacked.last_result)
    assert attacked.last_result.adversarial_dice.item() < attacked.last_result.clean_dice.item()
    workflow.finalize()


def test_the_readme_is_one_screen_and_its_table_is_that_of_the_audit() -> None:
    assert len(TEXT.splitlines()) < 130
    found = json.loads(readme_table.SOURCE.read_text(encoding="utf-8"))
    assert replace_table(TEXT, "audit", readme_table.table(found)) == TEXT
    found["results"][-1]["dice"]["adversarial"]["mean"] += 0.01
    assert replace_table(TEXT, "audit", readme_table.table(found)) != TEXT
    outside = re.sub(r"```.*?```|<!-- audit -->.*?<!-- end -->", "", TEXT, flags=re.DOTALL)
    assert not re.findall(r"\b0\.\d+", outside), "figures of the README stand in its table"


def test_lines_are_short() -> None:
    written = ("benchmarks", "audit_examples", "real_scan")  # by scripts, with long lines of their own
    folders = ("*.md", "docs/*.md", "tutorials/*.md", "bundles/*/docs/*.md")
    pages = [path for folder in folders for path in ROOT.glob(folder) if path.stem not in written]
    assert len(pages) > 40
    long = []
    for page in pages:
        text = re.sub(r"```bash\n.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)  # commands are copied
        long += [f"{page.name}: {line}" for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
    assert not long


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            # Pages that Sphinx makes are looked for in the built documentation (tests/docs/test_build.py).
            made = target.startswith(("http", "generated/"))
            assert made or (page.parent / target).exists(), f"{page.name}: {target}"
