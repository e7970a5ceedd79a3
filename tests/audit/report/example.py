# SPDX-License-Identifier: Apache-2.0
"""A summary as an audit of four phantoms makes it: scores are drawn at random, everything else is real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image, ImageDraw

from monai_adversarial.audit.curves import curve_areas
from monai_adversarial.metrics import summarize

CLASSES = ["background", "liver", "spleen", "left kidney", "right kidney", "pancreas", "aorta", "spine"]
ORGANS = CLASSES[1:]
ROWS: list[tuple[str, str, str, str | None, Any, float, float]] = [
    # name, title, family, series, budget, Dice kept by a random change, Dice kept by the worst
    ("clean", "Clean images", "clean", None, None, 1.0, 1.0),
    ("noise", "Gaussian noise", "noise", None, (8.0, "HU", "root mean square", "8 HU"), 1.0, 0.99),
    ("motion", "Motion, worst of 8 draws", "natural variation", None, None, 1.0, 0.9),
    ("pgd_2", "Auto-PGD, 2 HU", "gradient", "Auto-PGD", (2.0, "HU", "linf", "2 HU in every voxel"), 0.999, 0.62),
    ("pgd_4", "Auto-PGD, 4 HU", "gradient", "Auto-PGD", (4.0, "HU", "linf", "4 HU in every voxel"), 0.997, 0.27),
    ("pgd_8", "Auto-PGD, 8 HU", "gradient", "Auto-PGD", (8.0, "HU", "linf", "8 HU in every voxel"), 0.99, 0.04),
    ("bias", "Bias field", "bias field", None, (0.1, "gain", "linf", "gain 0.9 to 1.1"), 0.99, 0.78),
    ("elastic", "Elastic deformation", "geometry", None, (3.0, "mm", "euclidean", "3 mm"), 0.97, 0.955),
]
CASES = [("phantom_0", "label"), ("phantom_1", "label"), ("phantom_2", "label"), ("phantom_3", "clean prediction")]


def example_summary(seed: int = 0, title: str = "Abdominal U-Net on phantoms", strength: float = 1.0) -> dict[str, Any]:
    """A summary; ``strength`` below 1 is that of a hardened network."""
    random = np.random.default_rng(seed)
    cases = [_case(row, case, reference, random, strength) for row in ROWS for case, reference in CASES]
    failed = ("elastic", "phantom_2")
    cases = [case for case in cases if (case["row"], case["case"]) != failed]
    results = [
        _result(row, reference, [c for c in cases if (c["row"], c["reference"]) == (row[0], reference)])
        for row in ROWS
        for reference in ("label", "clean prediction")
    ]
    return {
        "schema": 1,
        "title": title,
        "target": {
            "name": "ct_abdomen_unet",
            "kind": "MONAI bundle",
            "gradients": True,
            "facts": [
                {"what": "network", "value": "UNet, 1.2 million weights", "source": "network_def", "told": False},
                {"what": "intensity map", "value": "-160..240 HU -> 0..1", "source": "preprocessing#2", "told": False},
                {"what": "classes", "value": "8", "source": "--classes", "told": True},
            ],
            "missing": [{"what": "scanner", "option": "--columns FILE", "why": "results per scanner"}],
            "classes": CLASSES,
            "hashes": {"weights": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
        },
        "plan": {
            "name": "quick",
            "description": "Eight rows for a first look.",
            "rows": [_plan_row(*row[:5]) for row in ROWS],
        },
        "data": {
            "cases": 4,
            "with_label": 3,
            "kind": "phantoms",
            "spacing_mm": [3.0, 3.0, 3.0],
            "notes": ["Synthetic."],
        },
        "results": results,
        "curves": curve_areas(
            [{**case, "attack": case["row"]} for case in cases], [_plan_row(*row[:5]) for row in ROWS], seed
        ),
        "subgroups": _subgroups(cases),
        "cases": cases,
        "health": [
            {
                "check": "zero gradients",
                "row": None,
                "verdict": "pass",
                "text": "At most 3 % of the gradients are zero.",
            },
            {"check": "white-box ≥ random", "row": None, "verdict": "pass", "text": "In every case."},
            {
                "check": "loss curves",
                "row": "pgd_2",
                "verdict": "warn",
                "text": "The objective still climbs in 1 of 4.",
            },
        ],
        "failures": [{"case": failed[1], "row": failed[0], "reason": "RuntimeError: not enough memory"}],
        "not_tested": [
            "Poisoned training data and poisoned weights.",
            "Attacks that know of the postprocessing.",
            "Other scanners than those of the data.",
        ],
        "versions": {"monai_adversarial": "0.1", "monai": "1.6.1", "torch": "2.8.0"},
        "seeds": {"attacks": 0, "bootstrap": 0},
        "started": "2026-11-29T07:44:46",
        "seconds": 204.2,
        "command": "python -m monai_adversarial audit --bundle ct_abdomen_unet --plan quick --out audit",
    }


def trimmed(summary: dict[str, Any], *rows: str) -> dict[str, Any]:
    """The same audit with a few rows: its page is quickly drawn."""
    plan = {**summary["plan"], "rows": [row for row in summary["plan"]["rows"] if row["name"] in rows]}
    parts = {
        key: [one for one in summary[key] if one["row"] in rows]
        for key in ("results", "cases", "failures", "subgroups")
    }
    health = [check for check in summary["health"] if check["row"] in (None, *rows)]
    return {**summary, **parts, "plan": plan, "health": health}


def _plan_row(name: str, title: str, family: str, series: str | None, budget: Any) -> dict[str, Any]:
    attack = family in ("gradient", "bias field", "geometry")
    return {
        "name": name,
        "title": title,
        "family": family,
        "goal": "lower the Dice of all organs" if attack else "none: this happens by itself",
        "knowledge": "network, weights and preprocessing" if attack else "none",
        "budget": budget and dict(zip(("value", "units", "norm", "text"), budget, strict=True)),
        "geometric": family == "geometry",
        "description": "",
        "series": series,
    }


def _case(row: Any, case: str, reference: str, random: Any, strength: float) -> dict[str, Any]:
    name, _, family, _, budget, kept_random, kept_worst = row
    base = {organ: 0.9 + 0.08 * random.random() if reference == "label" else 1.0 for organ in ORGANS}
    weak = {organ: 0.7 + 0.6 * random.random() for organ in ORGANS}
    images = {"clean": {organ: _score(dice) for organ, dice in base.items()}}
    if family != "clean":
        images["random"] = {organ: _score(dice * kept_random) for organ, dice in base.items()}
        lost = {organ: min((1 - kept_worst) * weak[organ] * strength, 1.0) for organ in ORGANS}
        images["adversarial"] = {organ: _score(dice * (1 - lost[organ])) for organ, dice in base.items()}
    mean = {image: {"dice": float(np.mean([s["dice"] for s in of.values()]))} for image, of in images.items()}
    attack = family in ("gradient", "bias field", "geometry")
    steps = np.sort(random.random(11)) * (1 - kept_worst)
    return {
        "case": case,
        "row": name,
        "reference": reference,
        "mean": mean,
        "scores": images,
        "measurements": {"change": {"value": budget[0], "units": budget[1], "limit": budget[0]}} if budget else {},
        "success": mean["adversarial"]["dice"] < 0.5 * mean["clean"]["dice"] if family != "clean" else None,
        "files": {"panel": f"pictures/{case}_{name}.png"} if family != "clean" else {},
        "content": {"image": f"image of {case}", "label": f"label of {case}"},
        "zero_gradient_fraction": 0.02 if attack else None,
        "objective_history": steps.tolist() if attack else [],
    }


def _score(dice: float) -> dict[str, float]:
    absent = dice < 0.02
    return {
        "dice": dice,
        "hd95_mm": float("nan") if absent else 2 + 40 * (1 - dice),
        "surface_dice": dice**1.5,
        "volume_ml": 900 * dice,
    }


def _result(row: Any, reference: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    name, _, family, _, budget, _, _ = row
    images = list(cases[0]["scores"]) if cases else ["clean"]

    def over(image: str, organ: str | None, score: str) -> dict[str, Any]:
        names = [organ] if organ else ORGANS
        values = [[v for o in names if (v := c["scores"][image][o][score]) == v] for c in cases]
        return dict(summarize(float(np.mean(of_case)) if of_case else None for of_case in values))

    scores = ("dice", "surface_dice", "hd95_mm")
    organs: dict[str, Any] = {}
    for organ in ORGANS:
        organs[organ] = {image: {score: over(image, organ, score) for score in scores} for image in images}
        if family != "clean":
            before, after = (
                np.array([c["scores"][i][organ]["volume_ml"] for c in cases]) for i in ("clean", "adversarial")
            )
            organs[organ] |= {
                "volume_change_ml": dict(summarize((after - before).tolist())),
                "volume_change_percent": dict(summarize((100 * (after / before - 1)).tolist())),
                "missed_rate": float(np.mean(after < 18)),
                "invented_rate": 0.0,
            }
    worst = min(cases, key=lambda case: case["mean"].get("adversarial", {"dice": 2})["dice"])
    draws = {"dice_mean": 0.91, "dice_worst": 0.84, "dice_cv": 0.03, "volume_cv": {"liver": 0.012}, "draws": 8}
    return {
        "row": name,
        "reference": reference,
        "n": len(cases),
        "mean": {image: {score: over(image, None, score) for score in scores} for image in images},
        "organs": organs,
        "success_rate": float(np.mean([c["success"] for c in cases])) if family != "clean" else None,
        "success_definition": "Dice below 0.5 times the clean Dice",
        "measurements": {
            "noise_linf": {
                "worst": budget[0],
                "units": budget[1],
                "limit": budget[0],
                "bound": "upper",
                "norm": "linf",
                "tolerance": 0.0,
            }
        }
        if budget
        else {},
        "draws": draws if family == "natural variation" else None,
        "cost": {"forwards": 12 * len(cases), "backwards": 10 * len(cases), "seconds": 3.2 * len(cases)},
        "worst_case": {"case": worst["case"], "dice": worst["mean"]["adversarial"]["dice"]}
        if family != "clean"
        else None,
    }


def _subgroups(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups = {"A": ("phantom_0", "phantom_1"), "B": ("phantom_2",)}
    found = []
    for row in ("pgd_4", "motion"):
        for value, names in groups.items():
            of = [c for c in cases if c["row"] == row and c["case"] in names]
            clean, after = (dict(summarize(c["mean"][image]["dice"] for c in of)) for image in ("clean", "adversarial"))
            head = {"column": "scanner", "value": value, "row": row, "reference": "label", "n": len(of)}
            found.append({**head, "clean": clean, "adversarial": after})
    return found


def write_files(summary: dict[str, Any], folder: Path, picture: Path | None = None, side: int = 24) -> None:
    """Pictures and volumes that the summary names; ``picture`` is copied where it is given."""
    for case in summary["cases"]:
        if case["files"]:
            path = folder / case["files"]["panel"]
            path.parent.mkdir(parents=True, exist_ok=True)
            if picture is not None:
                path.write_bytes(picture.read_bytes())
            else:
                image = Image.new("RGB", (320, 200), "#333333")
                ImageDraw.Draw(image).text((20, 20), f"{case['case']} {case['row']}", fill="white")
                image.save(path)
    summary["volumes"] = [_volumes("phantom_0", "pgd_8", folder, side)]


def _volumes(case: str, row: str, folder: Path, side: int) -> dict[str, Any]:
    random = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij"))
    radius = np.sqrt((grid**2).sum(axis=0))
    clean = np.where(radius < 0.9, 40.0, -1000.0) + random.normal(0, 6, radius.shape)
    prediction = sum(
        (np.sqrt(((grid - np.array(at)[:, None, None, None]) ** 2).sum(axis=0)) < 0.25) * index
        for index, at in enumerate([(-0.4, 0, 0), (0.4, 0.2, 0), (0, -0.45, 0.1), (0, 0.45, -0.2)], start=1)
    )
    arrays = {
        "clean": clean.astype(np.float32),
        "adversarial": (clean + 8 * np.sign(random.normal(size=radius.shape))).astype(np.float32),
        "clean_prediction": prediction.astype(np.uint8),
        "prediction": np.roll(prediction, 3, axis=0).astype(np.uint8),
    }
    entry: dict[str, Any] = {"case": case, "row": row}
    for key, array in arrays.items():
        image = nibabel.Nifti1Image(array, np.diag([3.0, 3.0, 3.0, 1.0]))
        image.header["descrip"] = b"DOE^JOHN"
        name = f"volumes/{case}_{row}_{key}.nii.gz"
        (folder / "volumes").mkdir(parents=True, exist_ok=True)
        nibabel.save(image, folder / name)
        entry[key] = {"file": name}
    return entry
