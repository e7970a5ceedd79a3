# SPDX-License-Identifier: Apache-2.0
"""Random attacks through files of every type and scaling, measured by code of their own: ``python -m
benchmarks.budget_examples``.

Each example writes a small NIfTI file, attacks it, saves the adversarial image and reads it back. A *violation* is a
file outside its budget by the measuring code of ``budget_measure``; a *false alarm* is a file inside it that the
package's own check refuses; an *error* is anything else that was raised.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.torchvision_stub import stub_torchvision

stub_torchvision()  # before MONAI looks for it

import torch  # noqa: E402

from benchmarks import budget_measure as measure  # noqa: E402
from benchmarks.nifti_bytes import RawNifti, read_raw, write_raw  # noqa: E402
from monai_adversarial.attacks import (  # noqa: E402
    AdditiveNoise,
    AffineTransform,
    Attack,
    AttackResult,
    BiasField,
    BudgetError,
    Chain,
    ElasticDeformation,
    Perturbation,
    SteepestAscent,
)
from monai_adversarial.data.saving import read_back, save_adversarial_nifti, stored_grid  # noqa: E402
from monai_adversarial.models import AttackedModel  # noqa: E402
from monai_adversarial.utils.files import replace_when_complete  # noqa: E402
from monai_adversarial.utils.intensity_map import IntensityMap  # noqa: E402

__all__ = ["Example", "Outcome", "make_example", "run_example", "summary"]

TYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
SLOPES = (None, 1.0, 0.1, 0.5, 8.0, 37.5, -1.0, 0.0123, 1 / 3, 2.0)
INTERCEPTS = (0.0, -1024.0, 3.3, -0.5, 1000.0)
KINDS = ("linf", "l2", "rms", "bias", "elastic", "affine", "chain")
CHAINS = ("noise noise", "bias noise", "noise bias", "elastic noise", "elastic bias noise", "affine noise")
WINDOW = (-160.0, 240.0)
DOMAINS = ("window", "attenuation", "image")
SPACING = (1.5, 1.0, 2.0)
TISSUES = (-2048.0, -1024.0, -1000.0, -100.0, 40.0, 60.0, 200.0, 1200.0)
SHARES = (1, 1, 3, 5, 6, 6, 4, 2)


@dataclass(frozen=True)
class Example:
    """One file and one budget.

    Args:
        seed: of all that is drawn.
        kind: of the perturbation; ``"chain"`` with its members in ``members``.
        members: names of the perturbations in order.
        dtype: of the file, with its byte order.
        slope, intercept: scaling of the file; no slope for none.
        amounts: budget of each member.
        domain: of a bias field.
        region: attack half of the volume.
        whole: whole HU in a floating point file.
        compressed: ``.nii.gz``.
    """

    seed: int
    kind: str
    members: tuple[str, ...]
    dtype: str
    slope: float | None
    intercept: float
    amounts: tuple[float, ...]
    domain: str
    region: bool
    whole: bool
    compressed: bool


@dataclass
class Outcome:
    """What became of an example.

    Args:
        example: which.
        violations: sentences of the measuring code.
        alarm: sentence of the package's own check, if it refused.
        error: any other error.
        changed: stored voxels that changed.
    """

    example: Example
    violations: list[str] = field(default_factory=list)
    alarm: str | None = None
    error: str | None = None
    changed: int = 0


def make_example(seed: int) -> Example:
    """The example of a seed."""
    rng = np.random.default_rng(seed)
    kind = KINDS[rng.integers(len(KINDS))]
    members = tuple(CHAINS[rng.integers(len(CHAINS))].split()) if kind == "chain" else (kind,)
    while True:
        dtype = ("<", ">")[rng.integers(2)] + TYPES[rng.integers(len(TYPES))]
        slope, intercept = SLOPES[rng.integers(len(SLOPES))], float(INTERCEPTS[rng.integers(len(INTERCEPTS))])
        if _can_hold(dtype, slope, intercept):
            break
    geometric = any(member in ("elastic", "affine") for member in members)

    def amount(member: str) -> float:
        if member in ("bias",):
            return float(rng.choice([0.0, 0.05, 0.3, rng.uniform(0.01, 0.9)]))
        if member in ("elastic", "affine"):
            return float(rng.choice([0.0, 1.0, 3.0, rng.uniform(0.1, 4.0)]))
        size = float(rng.choice([0.0, 0.3, 1.0, 8.0, 30.0, rng.uniform(0.05, 40.0)]))
        return size * 20 if member == "l2" else size

    return Example(
        seed=seed,
        kind=kind,
        members=members,
        dtype=dtype,
        slope=slope,
        intercept=intercept,
        amounts=tuple(amount(member) for member in members),
        domain=DOMAINS[rng.integers(len(DOMAINS))],
        region=bool(rng.integers(2)) and not geometric,
        whole=bool(rng.integers(2)),
        compressed=bool(rng.integers(4) == 0),
    )


def _stored(example: Example, rng: np.random.Generator) -> np.ndarray:
    """Stored numbers whose values are those of a scan: padding, air, tissue, some bone."""
    shape = tuple(int(size) for size in rng.integers(5, 9, 3))
    values = rng.choice(TISSUES, shape, p=np.array(SHARES) / sum(SHARES))
    values = values + rng.normal(0, 30, shape) * (values > -1000)
    slope, intercept = _scaling(example.slope, example.intercept)
    kind = np.dtype(example.dtype)
    if kind.kind == "f":
        return (((np.rint(values) if example.whole else values) - intercept) / slope).astype(kind)
    low, high = _limits(example.dtype)
    return np.rint((values - intercept) / slope).clip(low, high).astype(kind)


def _scaling(slope: float | None, intercept: float) -> tuple[float, float]:
    """As the header holds it."""
    return (1.0, 0.0) if slope is None else (float(np.float32(slope)), float(np.float32(intercept)))


def _limits(dtype: str) -> tuple[float, float]:
    """Stored numbers of a type that every file uses; those of 64 bits go further than float64 counts."""
    limits = np.iinfo(dtype)
    return max(float(limits.min), -(2.0**40)), min(float(limits.max), 2.0**40)


def _can_hold(dtype: str, slope: float | None, intercept: float) -> bool:
    """Whether a file can hold a good part of the network's window; others are refused before an attack."""
    if np.dtype(dtype).kind == "f":
        return True
    factor, offset = _scaling(slope, intercept)
    low, high = sorted(factor * limit + offset for limit in _limits(dtype))
    return min(high, WINDOW[1]) - max(low, WINDOW[0]) > 100


def _perturbation(member: str, amount: float, domain: str) -> Perturbation:
    if member in ("linf", "l2", "rms"):
        return AdditiveNoise(amount, member, "HU")
    if member == "noise":
        return AdditiveNoise(amount, "linf", "HU")
    if member == "bias":
        return BiasField(amount, degree=2, domain=domain)
    if member == "elastic":
        return ElasticDeformation(amount, 8.0)
    return AffineTransform(2 * amount, amount, 0.02 * amount)


class _Network(torch.nn.Module):
    """Two classes by a fixed random filter: every voxel has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.filter = torch.nn.Parameter(torch.randn(2, 1, 3, 3, 3, generator=generator) / 2)
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv3d(image, self.filter, padding=1)


NETWORK = _Network()


def run_example(example: Example, folder: Path) -> Outcome:
    """Write, attack, save, read back, check and measure."""
    rng = np.random.default_rng([example.seed, 1])
    ending = ".nii.gz" if example.compressed else ".nii"
    source, target = folder / f"clean{ending}", folder / f"case_adversarial{ending}"
    target.unlink(missing_ok=True)
    write_raw(source, _stored(example, rng), example.slope, example.intercept, SPACING)
    outcome = Outcome(example)
    image = read_back(source)[None].as_tensor()
    region = torch.from_numpy(rng.random(image.shape) < 0.5) if example.region else None
    label = torch.from_numpy(rng.integers(0, 2, image.shape))
    parts = [_perturbation(m, a, example.domain) for m, a in zip(example.members, example.amounts, strict=True)]
    perturbation = parts[0] if len(parts) == 1 else Chain(parts)
    model = AttackedModel(
        NETWORK, intensity=IntensityMap.from_window(*WINDOW), image_units="HU", stored_grid=stored_grid(source)
    )
    attack = Attack(perturbation, "cross_entropy", SteepestAscent(2.0), steps=1, seed=example.seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = attack(model, image, label, region=region, spacing=SPACING)
            save_adversarial_nifti(result.adversarial, source, target, "example")
        saved = read_back(target)[None].as_tensor()
        try:
            result.verify(saved)
        except BudgetError as error:
            outcome.alarm = f"file: {error}"
    except BudgetError as error:
        outcome.alarm = f"attack: {error}"
        return outcome
    except Exception as error:
        outcome.error = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return outcome
    clean, read = read_raw(source), read_raw(target)
    outcome.changed = int((clean.values != read.values).sum())
    if not torch.equal(saved, result.adversarial):
        outcome.violations.append("the file holds another image than the one that was scored")
    inside = None if region is None else region[0, 0].numpy()
    outcome.violations += _violations(example, clean, read, inside, result)
    return outcome


def _violations(
    example: Example, clean: RawNifti, saved: RawNifti, region: np.ndarray | None, result: AttackResult
) -> list[str]:
    found: list[str] = []
    if region is not None:
        found += measure.unchanged(clean, saved, ~region, "outside the region")
    first, amounts = example.members[0], example.amounts
    if not any(member in ("elastic", "affine") for member in example.members):
        floor = np.minimum(clean.values, measure.PADDING)
        found += measure.within(clean, saved, (floor, np.full_like(floor, np.inf)), "below the padding")
    if all(amount == 0 for amount in amounts):
        found += measure.unchanged(clean, saved, np.ones(clean.stored.shape, bool), "without a budget")
    if first in ("elastic", "affine"):
        return found + _moved_violations(example, clean, saved, result)
    where = measure.changeable(clean, region)
    low = high = clean.values
    for member, amount in zip(example.members, amounts, strict=True):
        if member == "bias":
            low, high = measure.gain_bounds(low, high, amount, example.domain, WINDOW)
            if len(amounts) == 1 and example.domain == "window":
                beyond = (clean.values <= WINDOW[0]) | (clean.values >= WINDOW[1])
                found += measure.unchanged(clean, saved, beyond, "outside the bias window")
        elif member in ("linf", "noise"):
            low, high = low - amount, high + amount
            if len(amounts) == 1:
                found += measure.unchanged(clean, saved, ~where, "where noise must not be")
    if first in ("l2", "rms"):
        found += measure.unchanged(clean, saved, ~where, "where noise must not be")
        return found + measure.euclidean(clean, saved, where, first, amounts[0])
    return found + measure.within(clean, saved, (low, high), example.kind)


def _moved_violations(example: Example, clean: RawNifti, saved: RawNifti, result: AttackResult) -> list[str]:
    """Geometry first, intensity after it: the image that the displacement gives bounds what may follow."""
    bound: Any = result.bound
    member = bound.members[0] if example.kind == "chain" else bound
    own = (result.parameters[0],)
    with torch.no_grad():
        voxels = member.displacement(own)[0].double().numpy()
    in_mm = voxels * np.array(SPACING).reshape(3, 1, 1, 1)
    found: list[str] = []
    if example.members[0] == "elastic":
        found += measure.geometry(in_mm, SPACING, example.amounts[0], "euclidean", member.min_jacobian)
    else:
        numbers = own[0][0].double().numpy()
        limits = np.repeat([2.0, 1.0, 0.02, 0.0], 3) * example.amounts[0]
        if (np.abs(numbers) > limits * (1 + 1e-5) + 1e-7).any():
            found.append(f"motion {numbers} above {limits}")
    expected = measure.moved(clean.values, voxels)
    step = abs(clean.slope) if clean.stored.dtype.kind in "iu" else 0.0
    if len(example.members) == 1:
        return found + measure.explained(clean, saved, expected, step / 2, "moved image")
    slack = 1e-4 * float(np.ptp(clean.values)) + 1e-3 + step / 2
    low, high = expected - slack, expected + slack
    for kind, amount in zip(example.members[1:], example.amounts[1:], strict=True):
        if kind == "bias":
            low, high = measure.gain_bounds(low, high, amount, example.domain, WINDOW)
        else:
            low, high = low - amount, high + amount
    return found + measure.within(clean, saved, (low, high), "moved, then changed")


def summary(outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    """Counts for ``docs/trust.json`` and the page."""
    wrong = [one for one in outcomes if one.violations or one.alarm or one.error]
    return {
        "examples": len(outcomes),
        "violations": sum(bool(one.violations) for one in outcomes),
        "false_alarms": sum(one.alarm is not None and not one.violations for one in outcomes),
        "errors": sum(one.error is not None for one in outcomes),
        "files_that_changed": sum(one.changed > 0 for one in outcomes),
        "types": sorted({one.example.dtype for one in outcomes}),
        "kinds": {kind: sum(one.example.kind == kind for one in outcomes) for kind in KINDS},
        "seconds": round(seconds, 1),
        "first_wrong": [
            {"seed": one.example.seed, "said": one.violations or [one.alarm or one.error]} for one in wrong[:20]
        ],
    }


def main() -> int:
    """Run examples, print what is wrong, and write the counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget_examples", description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first example")
    parser.add_argument("--save", type=Path, help="JSON file for the counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began, outcomes = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.first, arguments.first + arguments.examples):
            outcome = run_example(make_example(seed), Path(folder))
            outcomes.append(outcome)
            if outcome.violations or outcome.alarm or outcome.error:
                print(seed, outcome.example, outcome.violations, outcome.alarm, outcome.error, flush=True)
            if len(outcomes) % 1000 == 0:
                print(f"{len(outcomes)} examples", file=sys.stderr, flush=True)
    found = summary(outcomes, time.perf_counter() - began)
    print(json.dumps(found, indent=2))
    if arguments.save is not None:
        with replace_when_complete(arguments.save) as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if found["violations"] or found["false_alarms"] or found["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
