# SPDX-License-Identifier: Apache-2.0
"""Which attacks transfer, and what makes them: the study of docs/transfer.md, and what it says of published claims.

    python -m benchmarks.transfer_study docs/transfer.json --docs

Small networks are trained on coarse phantoms of the whole abdomen, from random weights or from weights that were
trained on other phantoms, as Bortsova et al. 2021 do with 2D classifiers. Attacks are made with a surrogate and judged
on a target that was trained on other cases and is never asked. Seeds that the file has already are not run again.

Survey entries: A21, R09 and R10, adapted to 3D segmentation.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import SegResNet, UNet
from torch import nn

from benchmarks.doc_tables import DOCS, replace_table
from benchmarks.machine import machine_line
from benchmarks.settings import Settings
from monai_adversarial.attacks import BIM, FGSM, MIFGSM, PGD, Attack, BiasFieldAttack, CrossEntropy
from monai_adversarial.data.phantom import generate_ct_phantom
from monai_adversarial.metrics import TransferMatrix, score_visibility
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["CLAIMS", "claims", "main", "tables"]

PAGE = "transfer.md"
SIZE, SPACING = (24, 24, 24), (13.5, 13.5, 9.5)
WINDOW = {"a_min": -160.0, "a_max": 240.0, "b_min": 0.0, "b_max": 1.0, "clip": True}
# Background, liver, spleen, left kidney, and all other organs as one.
CLASSES = 5
SEEDS = (0, 1, 2)
CASES, TRAINED_ON, PRETRAINED_ON = 2, 8, 16
# Iterations of two cases each.
PRETRAINING, TRAINING = 80, 40
MAX_GAIN, STEPS, EPSILON = 0.15, 10, 8.0
ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "U-Net": lambda: UNet(3, 1, CLASSES, (8, 16, 32), (2, 2), num_res_units=1),
    "SegResNet": lambda: SegResNet(
        3, 4, 1, CLASSES, norm=("INSTANCE", {"affine": True}), blocks_down=(1, 1, 1), blocks_up=(1, 1)
    ),
}
Case = tuple[torch.Tensor, torch.Tensor]


def _cases(first: int, count: int) -> list[Case]:
    """Phantoms, each an image in HU and its label, (1, 1, spatial...)."""
    made = []
    for seed in range(first, first + count):
        image, label, _ = generate_ct_phantom(seed, SIZE, SPACING)
        merged = torch.as_tensor(label).long()
        merged = torch.where(merged >= CLASSES - 1, CLASSES - 1, merged)
        made.append((torch.as_tensor(image).float()[None, None], merged[None, None]))
    return made


def _windowed(image: torch.Tensor) -> torch.Tensor:
    return ((image - WINDOW["a_min"]) / (WINDOW["a_max"] - WINDOW["a_min"])).clamp(0, 1)


def _trained(network: nn.Module, cases: Sequence[Case], iterations: int, seed: int) -> nn.Module:
    """The network after some iterations of Adam on batches of two cases."""
    generator = torch.Generator().manual_seed(seed)
    network = copy.deepcopy(network).train()
    loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=iterations)
    for _ in range(iterations):
        rows = torch.randperm(len(cases), generator=generator)[:2].tolist()
        image = _windowed(torch.cat([cases[row][0] for row in rows]))
        image = image + 0.02 * torch.randn(image.shape, generator=generator)
        optimizer.zero_grad()
        loss(network(image), torch.cat([cases[row][1] for row in rows])).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def _fresh(architecture: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[architecture]()


def _networks(seed: int) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Surrogates and targets, by architecture and beginning. Each group has cases of its own."""
    base = 10_000 * (seed + 1)
    elsewhere, first, second = (
        _cases(base + start, count) for start, count in ((0, PRETRAINED_ON), (100, TRAINED_ON), (200, TRAINED_ON))
    )
    begun = {name: _trained(_fresh(name, base + 1), elsewhere, PRETRAINING, base + 2) for name in ARCHITECTURES}
    surrogates, targets = {}, {}
    for name, pretrained in begun.items():
        surrogates[f"{name}, random"] = _trained(_fresh(name, base + 3), first, TRAINING, base + 4)
        surrogates[f"{name}, pre-trained"] = _trained(pretrained, first, TRAINING, base + 5)
    targets["U-Net, random"] = _trained(_fresh("U-Net", base + 6), second, TRAINING, base + 7)
    targets["U-Net, pre-trained"] = _trained(begun["U-Net"], second, TRAINING, base + 8)
    return surrogates, targets


def _noise(name: str, epsilon: float) -> Attack:
    """An attack by noise. As in the study that is repeated: cross-entropy, from the clean image."""
    made: dict[str, Callable[..., Attack]] = {"FGSM": FGSM, "BIM": BIM, "MI-FGSM": MIFGSM}
    options: dict[str, Any] = {} if name == "FGSM" else {"steps": STEPS}
    return made[name](epsilon, "HU", objective=CrossEntropy(), **options)


def _rms(image: torch.Tensor, clean: torch.Tensor) -> float:
    """Root mean square of a change within the window, in HU: what is clipped is not seen."""
    return float((_windowed(image) - _windowed(clean)).square().mean().sqrt()) * (WINDOW["a_max"] - WINDOW["a_min"])


def _matched(name: str, wanted: float, model: AttackedModel, case: Case) -> torch.Tensor:
    """What an attack by noise makes of a case, with the epsilon that gives the wanted change (four corrections)."""
    epsilon = wanted
    for _ in range(4):
        made = _noise(name, epsilon)(model, *case).adversarial
        found = _rms(made, case[0])
        if abs(found - wanted) < 0.02 * wanted:
            break
        epsilon *= wanted / max(found, 1e-6)
    return made


def run_seed(seed: int) -> dict[str, Any]:
    """All networks and attacks of one seed.

    Args:
        seed: fixes phantoms, weights and attacks.
    """
    began = time.perf_counter()
    surrogates, targets = _networks(seed)
    cases = _cases(10_000 * (seed + 1) + 300, CASES)

    def answer(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        def logits(image: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return network(_windowed(image))

        return logits

    answers = {name: answer(network) for name, network in targets.items()}
    kinds = ("FGSM", "BIM", "MI-FGSM", "bias field")
    matrices = {kind: TransferMatrix(answers) for kind in kinds}
    seen: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    ssim: dict[str, list[float]] = {"FGSM": [], "PGD": []}
    for name, network in surrogates.items():
        model = AttackedModel(network, intensity=WINDOW, image_units="HU", precision="float32")
        for number, case in enumerate(cases):
            image, label = case
            field = BiasFieldAttack(MAX_GAIN, steps=STEPS, zero_mean=True, objective=CrossEntropy())
            shaded = field(model, image, label).adversarial
            wanted = _rms(shaded, image)
            made = {"bias field": shaded}
            made |= {kind: _matched(kind, wanted, model, case) for kind in ("FGSM", "BIM", "MI-FGSM")}
            for kind, adversarial in made.items():
                matrices[kind].add(name, image, adversarial, label, seed=number)
                found = score_visibility(adversarial.numpy(), image.numpy())
                seen[kind].append({"ssim": found["ssim"], "rms_in_window_hu": _rms(adversarial, image)})
            if name == "U-Net, random":
                for kind, attack in (
                    ("FGSM", _noise("FGSM", EPSILON)),
                    ("PGD", PGD(EPSILON, "HU", steps=STEPS, step_size=EPSILON / 4, objective=CrossEntropy())),
                ):
                    shown = attack(model, image, label).adversarial
                    ssim[kind].append(score_visibility(shown.numpy(), image.numpy())["ssim"])
    return {
        "seed": seed,
        "seconds": time.perf_counter() - began,
        "surrogates": list(surrogates),
        "targets": list(targets),
        "attacks": {
            kind: {
                **{of: matrix.dice(of).tolist() for of in ("clean", "adversarial", "shuffled")},
                "success_rate": matrix.success_rate().tolist(),
                **{key: sum(one[key] for one in seen[kind]) / len(seen[kind]) for key in seen[kind][0]},
            }
            for kind, matrix in matrices.items()
        },
        "ssim_at_8_hu": {kind: sum(values) / len(values) for kind, values in ssim.items()},
    }


def _drop(run: dict[str, Any], kind: str, surrogate: str, target: str) -> float:
    """Dice below that of the same change at shuffled places."""
    row, column = run["surrogates"].index(surrogate), run["targets"].index(target)
    found = run["attacks"][kind]
    return found["shuffled"][row][column] - found["adversarial"][row][column]


def _raw_drop(run: dict[str, Any], kind: str) -> float:
    """Mean drop from the clean Dice over all pairs."""
    found = run["attacks"][kind]
    pairs = [
        c - a
        for clean, attacked in zip(found["clean"], found["adversarial"], strict=True)
        for c, a in zip(clean, attacked, strict=True)
    ]
    return sum(pairs) / len(pairs)


def _pretraining(architecture: str) -> Callable[[dict[str, Any]], float]:
    def more(run: dict[str, Any]) -> float:
        kinds = ("FGSM", "BIM", "MI-FGSM")
        both = [_drop(run, kind, f"{architecture}, pre-trained", "U-Net, pre-trained") for kind in kinds]
        none = [_drop(run, kind, f"{architecture}, random", "U-Net, random") for kind in kinds]
        return (sum(both) - sum(none)) / len(kinds)

    return more


def _bias_field(run: dict[str, Any]) -> float:
    return _raw_drop(run, "bias field") - max(_raw_drop(run, kind) for kind in ("FGSM", "BIM", "MI-FGSM"))


#: claim -> a number of each seed that is above 0 where it holds
CLAIMS: dict[str, Callable[[dict[str, Any]], float]] = {
    "Pre-training of both networks raises transfer, same architecture (Bortsova 2021)": _pretraining("U-Net"),
    "Pre-training of both networks raises transfer, other architecture (Bortsova 2021)": _pretraining("SegResNet"),
    "The bias field transfers best at equal visibility, here equal RMS (Tian 2021)": _bias_field,
    "FGSM lowers SSIM more than PGD at equal epsilon (Bortsova 2021)": (
        lambda run: run["ssim_at_8_hu"]["PGD"] - run["ssim_at_8_hu"]["FGSM"]
    ),
}


def claims(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Verdict of each claim: confirmed where its number is above 0 in every seed, refuted where in none.

    Args:
        runs: of ``run_seed``.
    """
    found = []
    for claim, value in CLAIMS.items():
        values = [value(run) for run in runs]
        verdict = "confirmed" if min(values) > 0 else "refuted" if max(values) <= 0 else "not settled: seeds disagree"
        found.append({"claim": claim, "values": values, "verdict": verdict})
    return found


def tables(content: dict[str, Any]) -> dict[str, str]:
    """The tables of the page, by the name of their markers.

    Args:
        content: of the JSON file.
    """
    runs = content["runs"]
    verdicts = ["| claim | difference in each seed | verdict |", "|---|---|---|"]
    for one in claims(runs):
        values = ", ".join(f"{value:+.3f}" for value in one["values"])
        verdicts.append(f"| {one['claim']} | {values} | **{one['verdict']}** |")

    def mean(kind: str, of: str, row: int, column: int) -> float:
        return sum(run["attacks"][kind][of][row][column] for run in runs) / len(runs)

    first, kinds = runs[0], list(runs[0]["attacks"])
    rows = ["| attack | surrogate | " + " | ".join(first["targets"]) + " | SSIM | RMS in the window, HU |"]
    rows.append("|---" * (4 + len(first["targets"])) + "|")
    for kind in kinds:
        for row, surrogate in enumerate(first["surrogates"]):
            cells = [
                f"{mean(kind, 'clean', row, c):.3f} → **{mean(kind, 'adversarial', row, c):.3f}** "
                f"({mean(kind, 'shuffled', row, c):.3f})"
                for c in range(len(first["targets"]))
            ]
            seen = [sum(run["attacks"][kind][key] for run in runs) / len(runs) for key in ("ssim", "rms_in_window_hu")]
            rows.append(f"| {kind} | {surrogate} | {' | '.join(cells)} | {seen[0]:.3f} | {seen[1]:.1f} |")
    return {"verdicts": "\n".join(verdicts), "matrix": "\n".join(rows)}


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, and renew the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer_study", description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--docs", action="store_true", help=f"renew the tables of docs/{PAGE}")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS), help="none: page only")
    options = parser.parse_args(arguments)
    content: dict[str, Any] = {"machine": machine_line(Settings(threads=1)), "runs": []}
    if options.output.exists():
        content = json.loads(options.output.read_text(encoding="utf-8"))
    known = {run["seed"] for run in content["runs"]}
    for seed in options.seeds:
        if seed not in known:
            content["runs"] = sorted([*content["runs"], run_seed(seed)], key=lambda run: run["seed"])
            content["claims"] = claims(content["runs"])
            with replace_when_complete(options.output) as file:
                file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for one in claims(content["runs"]):
        print(f"{one['verdict']}: {one['claim']} {[round(value, 4) for value in one['values']]}")
    if options.docs:
        page = DOCS / PAGE
        text = page.read_text(encoding="utf-8")
        for name, table in tables(content).items():
            text = replace_table(text, name, table)
        page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
