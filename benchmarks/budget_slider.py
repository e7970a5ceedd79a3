# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/budget_slider.gif and its frames: the segmentation of one phantom while the budget grows.

python -m benchmarks.budget_slider           # attack, draw, write docs/budget_slider.json
python -m benchmarks.budget_slider --check   # whether the page has the figures of the JSON file
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.doc_tables import DOCS, replace_table

__all__ = ["FRAMES", "GIF", "RECORD", "main", "measure", "table"]

RECORD = DOCS / "budget_slider.json"
PAGE = DOCS / "budget_slider.md"
FRAMES = DOCS / "images" / "budget"
GIF = DOCS / "images" / "budget_slider.gif"
BUNDLE = DOCS.parent / "bundles" / "ct_abdomen_unet"
BUDGETS = (0, 2, 4, 6, 8, 16)
STEPS, SEED = 5, 2024
MILLISECONDS = 900


def measure() -> tuple[dict[str, Any], list[dict[str, torch.Tensor]]]:
    """Attack one phantom at each budget; the record, and an image with its two predictions per budget."""
    from monai.bundle import ConfigParser
    from monai.data import MetaTensor
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import ScaleIntensityRange

    from monai_adversarial.attacks import PGD
    from monai_adversarial.data.phantom import CLASS_NAMES, generate_ct_phantom
    from monai_adversarial.inferers import ScannerSpaceInferer
    from monai_adversarial.models import AttackedModel

    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.yaml")
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    windows = SlidingWindowInferer((64, 64, 64), 4, 0.25, mode="gaussian")
    window = ScaleIntensityRange(-160, 240, 0, 1, clip=True)
    inferer = ScannerSpaceInferer(windows, pixdim=(3.2, 3.2, 4.0), axcodes="RAS", intensity=window)
    model = AttackedModel(network.eval(), inferer, image_units="HU", class_names=list(CLASS_NAMES))
    voxels, classes, affine = generate_ct_phantom(SEED, (96, 96, 52), oblique=False)
    image = MetaTensor(torch.as_tensor(voxels, dtype=torch.float32)[None, None], affine=torch.as_tensor(affine))
    label = torch.as_tensor(classes)[None, None].float()
    rows, frames = [], []
    for budget in BUDGETS:
        result = PGD(budget, units="HU", steps=STEPS)(model, image, label)
        rows.append({"budget_HU": budget, "dice": float(result.adversarial_dice), "random_dice": None})
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(SEED)).sign() * budget
        scored = PGD(0, units="HU", steps=1)(model, image + noise, label)
        rows[-1]["random_dice"] = float(scored.clean_dice)
        seen = {"image": result.adversarial[0, 0], "prediction": result.prediction[0, 0], "label": label[0, 0]}
        frames.append({name: _toward_ras(volume, affine) for name, volume in seen.items()})
    record = {"attack": repr(PGD(BUDGETS[-1], units="HU", steps=STEPS)), "seed": SEED, "rows": rows}
    return record, frames


def _toward_ras(volume: torch.Tensor, affine: Any) -> torch.Tensor:
    """The volume with axes toward right, anterior and superior."""
    import nibabel

    codes = nibabel.orientations.io_orientation(affine)
    return torch.as_tensor(nibabel.orientations.apply_orientation(torch.as_tensor(volume).numpy(), codes).copy())


def table(record: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = [f"| {r['budget_HU']} HU | {r['random_dice']:.3f} | {r['dice']:.3f} |" for r in record["rows"]]
    return "\n".join(["| budget | random noise of the same size | PGD |", "|---|---|---|", *rows])


def draw(record: dict[str, Any], frames: list[dict[str, torch.Tensor]]) -> None:
    """Write a picture per budget, and all of them as one moving picture."""
    from PIL import Image

    FRAMES.mkdir(parents=True, exist_ok=True)
    label = frames[0]["label"]
    depth = int((label > 0).sum(dim=(0, 1)).argmax())
    files = []
    for row, frame in zip(record["rows"], frames, strict=True):
        files.append(FRAMES / f"{row['budget_HU']:02d}.png")
        _frame(record, row, {name: volume[..., depth] for name, volume in frame.items()}, files[-1])
    pictures = [Image.open(file).convert("P", palette=Image.Palette.ADAPTIVE, colors=128) for file in files]
    pictures[0].save(GIF, save_all=True, append_images=pictures[1:], duration=MILLISECONDS, loop=0, optimize=True)


def _frame(record: dict[str, Any], row: dict[str, Any], cut: dict[str, torch.Tensor], file: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    from monai_adversarial.data.phantom import CLASS_NAMES
    from monai_adversarial.studies.reports.panel import organ_colors

    figure = Figure(figsize=(8.4, 4.0), dpi=100, facecolor="#101418")
    FigureCanvasAgg(figure)
    for place, (title, name) in enumerate((("segmentation under attack", "prediction"), ("label", "label"))):
        axes = figure.add_axes((0.005 + 0.315 * place, 0.02, 0.31, 0.82))
        gray = ((cut["image"] + 160) / 400).clamp(0, 1)
        picture = gray[..., None].repeat(1, 1, 3)
        for index, color in organ_colors(CLASS_NAMES).items():
            mask = cut[name].round() == index
            picture[mask] = 0.45 * picture[mask] + 0.55 * torch.tensor(to_rgb(color))
        axes.imshow(picture.transpose(0, 1).flip(0, 1).numpy())  # anterior at the top, the patient's right at left
        axes.set_title(title, color="#e8e8e8", fontsize=10)
        axes.axis("off")
    axes = figure.add_axes((0.71, 0.2, 0.27, 0.6), facecolor="#101418")
    budgets = [r["budget_HU"] for r in record["rows"]]
    axes.plot(budgets, [r["random_dice"] for r in record["rows"]], color="#A7A9AC", label="random noise")
    axes.plot(budgets, [r["dice"] for r in record["rows"]], color="#D1495B", label="PGD")
    axes.plot(row["budget_HU"], row["dice"], "o", color="white", markersize=9)
    axes.set_ylim(0, 1)
    axes.set_xlabel("largest change of a voxel (L-infinity), HU", color="#cccccc", fontsize=8)
    axes.set_title("mean organ Dice", color="#e8e8e8", fontsize=10)
    axes.tick_params(colors="#cccccc", labelsize=8)
    axes.legend(frameon=False, labelcolor="#cccccc", fontsize=8, loc="lower left")
    figure.text(0.01, 0.93, f"{row['budget_HU']} HU: Dice {row['dice']:.2f}", color="white", fontsize=14, weight="bold")
    figure.savefig(file, metadata={"Software": None})


def main(arguments: list[str] | None = None) -> int:
    """Attack and draw, or check the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget_slider", description=__doc__)
    parser.add_argument("--check", action="store_true", help="attack nothing; exit status 1 where the page is old")
    options = parser.parse_args(arguments)
    text = PAGE.read_text(encoding="utf-8")
    if options.check:
        return int(replace_table(text, "budgets", table(json.loads(RECORD.read_text(encoding="utf-8")))) != text)
    record, frames = measure()
    draw(record, frames)
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(replace_table(text, "budgets", table(record)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
