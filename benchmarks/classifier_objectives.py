# SPDX-License-Identifier: Apache-2.0
"""Which objective attacks classifiers best: robust accuracy of three small trained networks under PGD and Auto-PGD.

    python -m benchmarks.classifier_objectives --data ../shared/data

Chest X-rays (PneumoniaMNIST, 2 classes, 28 x 28), digits (scikit-learn, 10 classes, 8 x 8) and patches of hippocampus
MRI (the class of the patch's middle voxel, 3 classes, 16 x 16 x 16). Networks are trained here, on the CPU. Rows that
docs/benchmarks/classifiers.json holds are not measured again; the table of docs/classification.md is made of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.networks.nets import DenseNet
from torch import nn

from benchmarks.doc_tables import DOCS, replace_table
from monai_adversarial.attacks import APGD, DLR, PGD, CrossEntropy, Margin, Objective
from monai_adversarial.models import AttackedModel

RECORD = DOCS / "benchmarks" / "classifiers.json"
OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": CrossEntropy(),
    "margin, clipped at 0": Margin(0.0),
    "margin": Margin(float("inf")),
    "dlr": DLR(),
}
Data = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def chest_xrays(folder: Path, second: str = "test") -> Data:
    """Images from 0 to 1 and classes: train, then ``second``, which may be "val"."""
    with np.load(folder / "pneumonia_xray" / "pneumoniamnist_28.npz") as stored:
        images = [torch.from_numpy(stored[f"{part}_images"]).float()[:, None] / 255 for part in ("train", second)]
        labels = [torch.from_numpy(stored[f"{part}_labels"]).long().flatten() for part in ("train", second)]
    return images[0], labels[0], images[1], labels[1]


def digits(folder: Path) -> Data:
    """The 1797 digits of scikit-learn, every third for the test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = torch.from_numpy(found.images).float()[:, None] / 16, torch.from_numpy(found.target).long()
    test = torch.arange(len(labels)) % 3 == 0
    return images[~test], labels[~test], images[test], labels[test]


def hippocampus_patches(folder: Path, size: int = 16, each: int = 6, seed: int = 0) -> Data:
    """Patches around random voxels of each class, images scaled by their own 1st and 99th percentile; the last quarter
    of the patients for the test."""
    generator = np.random.default_rng(seed)
    files = sorted((folder / "hippocampus_mri" / "images").glob("*.nii.gz"))
    parts: list[list[Any]] = [[], [], [], []]
    for number, file in enumerate(files):
        image = np.asarray(nibabel.load(file).dataobj, dtype=np.float32)
        label = np.asarray(nibabel.load(folder / "hippocampus_mri" / "labels" / file.name).dataobj)
        low, high = np.percentile(image, [1, 99]).astype(np.float32)
        image, half = np.pad((image - low) / np.float32(high - low), size // 2, mode="edge").clip(0, 1), size // 2
        for name in (0, 1, 2):
            inside = np.argwhere(label == name)
            for place in inside[generator.choice(len(inside), each)]:
                patch = image[tuple(slice(p, p + 2 * half) for p in place)]
                test = 2 * (number >= len(files) * 3 // 4)
                parts[test].append(torch.from_numpy(patch.copy()))
                parts[test + 1].append(name)
    return (
        torch.stack(parts[0])[:, None],
        torch.tensor(parts[1]),
        torch.stack(parts[2])[:, None],
        torch.tensor(parts[3]),
    )


def trained(data: Data, epochs: int, seed: int = 0, dropout: float = 0.0) -> tuple[nn.Module, float]:
    """A small DenseNet and its test accuracy.

    Args:
        data: see :func:`chest_xrays`.
        epochs: passes over the images.
        seed: of weights and batches.
        dropout: share of the channels that each layer drops while it is trained.
    """
    torch.manual_seed(seed)
    images, labels, test_images, test_labels = data
    size: dict[str, Any] = {"init_features": 12, "growth_rate": 8, "block_config": (2, 2), "dropout_prob": dropout}
    network = DenseNet(images.ndim - 2, 1, int(labels.max()) + 1, **size)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(epochs):
        network.train()
        for rows in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    network.eval()
    with torch.no_grad():
        right = torch.cat([network(part).argmax(1) for part in test_images.split(128)]) == test_labels
    return network, float(right.float().mean())


SETS: dict[str, tuple[Callable[[Path], Data], int, tuple[float, ...]]] = {
    "chest X-rays": (chest_xrays, 3, (1 / 255, 2 / 255, 4 / 255)),
    "digits": (digits, 12, (0.05, 0.1, 0.2)),
    "hippocampus patches": (hippocampus_patches, 4, (0.005, 0.01, 0.02)),
}


def table(rows: list[dict[str, Any]]) -> str:
    """The table of docs/classification.md: PGD alone."""
    titles = list(OBJECTIVES)
    lines = [f"| network | budget | clean | {' | '.join(titles)} |", "|---|---:|---:|" + "---:|" * len(titles)]
    for row in rows:
        name = row["data"] + (", logits x 20" if row["logits_times"] > 1 else "")
        left = [f"{row[f'PGD {title}']:.3f}" if f"PGD {title}" in row else "" for title in titles]
        lines.append(f"| {name} | {row['budget']:.3f} | {row['clean']:.3f} | {' | '.join(left)} |")
    return "\n".join(lines)


def main() -> None:
    """Train, attack, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with pneumonia_xray and hippocampus_mri")
    parser.add_argument("--cases", type=int, default=192, help="test images that are attacked")
    options = parser.parse_args()
    rows = json.loads(RECORD.read_text()) if RECORD.exists() else []
    known = {(row["data"], row["logits_times"], row["budget"]) for row in rows}
    for name, (load, epochs, budgets) in SETS.items():
        wanted = [(times, budget) for times in (1.0, 20.0) for budget in budgets if (name, times, budget) not in known]
        if not wanted:
            continue
        data = load(options.data)
        network, accuracy = trained(data, epochs)
        print(f"{name}: test accuracy {accuracy:.3f}", flush=True)
        images, labels = data[2], data[3]
        chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[: options.cases]
        for times, budget in wanted:
            row: dict[str, Any] = {"data": name, "logits_times": times, "budget": budget}
            model = AttackedModel(nn.Sequential(network, Times(times)).eval())
            for title, objective in OBJECTIVES.items():
                if title == "dlr" and int(data[1].max()) < 2:
                    continue
                # Auto-PGD with the paper's steps, of which the table was made.
                for recipe, more in ((PGD, {}), (APGD, {"schedule": "constant"})):
                    attack = recipe(budget, steps=10, objective=objective, **more)
                    result = attack(model, images[chosen], labels[chosen])
                    row.setdefault("clean", float(result.clean_score.mean()))
                    row[f"{recipe.__name__} {title}"] = float(result.adversarial_score.mean())
            rows.append(row)
            print(row, flush=True)
            RECORD.write_text(json.dumps(rows, indent=1) + "\n")
    page = DOCS / "classification.md"
    page.write_text(replace_table(page.read_text(encoding="utf-8"), "classifiers", table(rows)), encoding="utf-8")


class Times(nn.Module):
    """Logits times a factor: the same decisions, more or less confident."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """(batch, class)."""
        return logits * self.factor


if __name__ == "__main__":
    main()
