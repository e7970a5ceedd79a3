# SPDX-License-Identifier: Apache-2.0
"""Tables of ``bundles/ct_abdomen_unet/docs/README.md``, of what two of the bundle's own configs wrote.

    BUNDLE=bundles/ct_abdomen_unet
    python -m monai.bundle run --bundle_root $BUNDLE --config_file $BUNDLE/configs/evaluate.yaml
    python -m monai.bundle run --bundle_root $BUNDLE --config_file $BUNDLE/configs/attack.yaml
    python -m benchmarks.bundle_docs

keeps the Dice of every case in ``results.json`` beside the page and makes the tables of that file.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.doc_tables import DOCS, replace_table
from monai_adversarial.data.phantom import CLASS_NAMES
from monai_adversarial.metrics import summarize
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["KEPT", "PAGE", "attack_table", "dice_table", "kept", "with_tables"]

BUNDLE = DOCS.parent / "bundles" / "ct_abdomen_unet"
PAGE, KEPT = BUNDLE / "docs" / "README.md", BUNDLE / "docs" / "results.json"
ORGANS = tuple(CLASS_NAMES[1:])
IMAGES = ("clean", "random", "adversarial")
# What the page says about an attack, from its configuration.
SAID = {
    "pgd": ("`pgd`, {steps} steps", "{perturbation[epsilon]:g} HU per voxel (L-infinity)"),
    "bias_field": ("`bias_field`, {steps} steps, mean kept", "{gain:g} % gain in the window"),
    "elastic": (
        "`elastic`, {steps} steps, moved label",
        "{perturbation[max_displacement]:g} mm (Euclidean length), no folding",
    ),
}


def kept(folder: Path) -> dict[str, Any]:
    """What ``results.json`` holds, from the bundle's ``eval`` folder.

    Args:
        folder: with ``val_mean_dice_raw.csv`` of ``evaluate.yaml`` and ``attack/`` of ``attack.yaml``.

    Returns:
        ``dice``: one mapping of organs per case, in the order of the data list; ``attacks``: name -> configuration and
        ``cases``, the mean Dice of the images of each.
    """
    with (folder / "val_mean_dice_raw.csv").open(newline="", encoding="utf-8") as stream:
        dice = [
            {organ: float(line[f"class{index}"]) for index, organ in enumerate(ORGANS)}
            for line in csv.DictReader(stream)
        ]
    summary = json.loads((folder / "attack" / "summary.json").read_text(encoding="utf-8"))
    attacks = {
        name: {"configuration": found["configuration"], "cases": {}} for name, found in summary["attacks"].items()
    }
    with (folder / "attack" / "results.csv").open(newline="", encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            if line["organ"] == "mean":
                means = {image: float(line[f"{image}_dice"]) for image in IMAGES}
                attacks[line["attack"]]["cases"][line["case"]] = means
    return {"dice": dice, "attacks": attacks}


def dice_table(found: Mapping[str, Any]) -> str:
    """Mean Dice per organ over the cases, and their mean as ``evaluate.yaml`` prints it."""
    means = [statistics.fmean(case[organ] for case in found["dice"]) for organ in ORGANS]
    every = statistics.fmean(dice for case in found["dice"] for dice in case.values())
    head = " | ".join([*(organ.replace("_", " ") for organ in ORGANS), "mean"])
    cells = " | ".join([*(f"{value:.3f}" for value in means), f"**{every:.3f}**"])
    return f"| {head} |\n|{'---|' * (len(ORGANS) + 1)}\n| {cells} |"


def attack_table(found: Mapping[str, Any]) -> str:
    """Mean Dice of clean, randomly changed and adversarial images, with the intervals over cases."""
    lines = ["| attack | budget | clean | random control | adversarial |", "|---|---|---|---|---|"]
    for name, (title, budget) in SAID.items():
        attack = found["attacks"][name]
        facts = dict(attack["configuration"])
        facts["gain"] = 100 * facts["perturbation"].get("max_gain", 0)
        clean, random, adversarial = (_interval(attack, image) for image in IMAGES)
        said = (title.format(**facts), budget.format(**facts), clean, random, _bold(adversarial))
        lines.append("| " + " | ".join(said) + " |")
    return "\n".join(lines)


def _interval(attack: Mapping[str, Any], image: str) -> str:
    found = summarize(case[image] for case in attack["cases"].values())
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _bold(text: str) -> str:
    mean, interval = text.split(" ", 1)
    return f"**{mean}** {interval}"


def with_tables(page: str, found: Mapping[str, Any]) -> str:
    """The page with the tables of what was found."""
    for name, table in (("dice", dice_table(found)), ("attack", attack_table(found))):
        page = replace_table(page, f"results.json {name}", table)
    return page


def main() -> None:
    """Keep what the configs wrote, and renew the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bundle_docs", description="Tables of the bundle's page")
    parser.add_argument("--results", type=Path, default=BUNDLE / "eval", help="what the configs wrote (default: eval)")
    found = kept(parser.parse_args().results)
    page = with_tables(PAGE.read_text(encoding="utf-8"), found)
    for path, text in ((KEPT, json.dumps(found, indent=1) + "\n"), (PAGE, page)):
        with replace_when_complete(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
