# SPDX-License-Identifier: Apache-2.0
"""Every detector under every attack, by an attacker who does not know it and one who does: docs/detector_table.md.

    python -m benchmarks.detector_table docs/detector_table.csv

Beside the CSV file stands another one, of clean images: how many of them each detector rejects, from the same scanner
and from others. Rows that the files have already are not measured again; networks are trained once and kept.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import betabinom, binomtest
from torch.nn.modules.dropout import _DropoutNd

from benchmarks.csv_rows import read_rows, write_rows
from benchmarks.data_folder import REPOSITORY, data_folder
from benchmarks.detector_subjects import BUDGETS, LONG, MRI, SUBJECTS, Subject
from benchmarks.doc_tables import DOCS, replace_table
from monai_adversarial import detection
from monai_adversarial.detection import Detector, FeatureDetector, evaluate_detector
from monai_adversarial.purifiers import Purifier

__all__ = ["DETECTORS", "AttackRow", "CleanRow", "attack_rows", "attack_table", "clean_rows", "clean_table"]

PAGE, TABLE, CLEAN = "detector_table.md", "detector_table.csv", "detector_table_clean.csv"
CACHE = REPOSITORY / "benchmarks" / "results" / "detector_table"
HELD_OUT = "held out"
#: clean rejection may be this far from the asked rate, and that of shifted images this many times that of clean ones
ROOM, TIMES = 0.02, 2


def _classifier(subject: Subject) -> Detector:
    """The one detector that has seen attacks: PGD on the cases of the fit."""
    attacked = [torch.as_tensor(subject.attacks["PGD"](subject.model, batch).adversarial) for batch in subject.fit]
    return detection.FeatureClassifier(subject.model).fit(subject.fit, attacked=attacked)


def _of_organs(make: Callable[[Subject], Detector]) -> Callable[[Subject], Detector | None]:
    """Nothing for a classifier, which has no organs."""
    return lambda subject: None if subject.model.task == "classification" else make(subject).fit(subject.fit)


def _rebuilt(kind: Callable[[Any, Purifier], Detector]) -> Callable[[Subject], Detector | None]:
    """Nothing where there is no autoencoder."""
    return lambda subject: None if subject.autoencoder is None else kind(subject.model, subject.autoencoder())


def _dropout(subject: Subject) -> Detector | None:
    """Nothing for a network without dropout."""
    drops = any(isinstance(module, _DropoutNd) and module.p > 0 for module in subject.model.network.modules())
    return detection.DropoutUncertainty(subject.model, passes=10) if drops else None


def _ensemble(subject: Subject) -> Detector | None:
    """Nothing without other networks."""
    return detection.EnsembleDisagreement(subject.model, subject.others()) if subject.others else None


#: name -> a fitted detector, None where it does not apply
DETECTORS: dict[str, Callable[[Subject], Detector | None]] = {
    "GaussianDensity": lambda s: detection.GaussianDensity(s.model).fit(s.fit),
    "GaussianDensity, organs": _of_organs(lambda s: detection.GaussianDensity(s.model, pooling="organs")),
    "MahalanobisDistance": lambda s: detection.MahalanobisDistance(s.model).fit(s.fit),
    "GaussianMixtureDensity": lambda s: detection.GaussianMixtureDensity(s.model).fit(s.fit),
    "KernelDensity": lambda s: detection.KernelDensity(s.model).fit(s.fit),
    "LocalIntrinsicDimensionality": lambda s: detection.LocalIntrinsicDimensionality(s.model).fit(s.fit),
    "FeatureClassifier, has seen PGD": _classifier,
    "FrequencyProfile": lambda s: detection.FrequencyProfile(s.model).fit(s.fit),
    "FeatureSqueezing": lambda s: detection.FeatureSqueezing(s.model, s.purifiers).fit(s.fit),
    "PredictionEntropy": lambda s: detection.PredictionEntropy(s.model).fit(s.fit),
    "SegmentationPlausibility": _of_organs(lambda s: detection.SegmentationPlausibility(s.model)),
    "EnsembleDisagreement": _ensemble,
    "ReconstructionError, MagNet": _rebuilt(detection.ReconstructionError),
    "ReconstructionDivergence, MagNet": _rebuilt(detection.ReconstructionDivergence),
    "SaliencyConcentrationDetector": lambda s: detection.SaliencyConcentrationDetector(s.model).fit(s.fit),
    "OrientationConsistency": lambda s: detection.OrientationConsistency(s.model).fit(s.fit),
    "DropoutUncertainty": _dropout,
    "NoiseSensitivity": lambda s: detection.NoiseSensitivity(s.model).fit(s.fit),
    "AttributionReconstruction": lambda s: detection.AttributionReconstruction(s.model, steps=4).fit(s.fit),
}
#: those that take more than three passes of an image
MANY_PASSES = ("OrientationConsistency", "DropoutUncertainty", "NoiseSensitivity", "AttributionReconstruction")


@dataclass(frozen=True)
class CleanRow:
    """How many clean images one detector rejects.

    Args:
        network, detector: names.
        images: ``"held out"``, or the shift.
        asked: false positive rate of the calibration.
        calibrated: cases of the calibration.
        cases, rejected: of these images.
    """

    network: str
    detector: str
    images: str
    asked: float
    calibrated: int
    cases: int
    rejected: int

    @property
    def share(self) -> float:
        """Rejected of all."""
        return self.rejected / self.cases

    def interval(self) -> tuple[float, float]:
        """95 % interval of the share (Clopper and Pearson)."""
        found = binomtest(self.rejected, self.cases).proportion_ci(0.95)
        return float(found.low), float(found.high)

    def allowed(self) -> tuple[float, float]:
        """Between which shares 95 % of all calibrations and draws of clean cases lie, if all come from one source.

        The rejection rate of one calibration on n cases has a Beta distribution, and the count a Beta-binomial one
        (Vovk 2012): whatever the detector is, if no two scores are equal.
        """
        above = self.calibrated + 1 - math.ceil((1 - self.asked) * (self.calibrated + 1) - 1e-9)
        low, high = betabinom(self.cases, above, self.calibrated + 1 - above).interval(0.95)
        return float(low) / self.cases, float(high) / self.cases


@dataclass(frozen=True)
class AttackRow:
    """One detector under one attack.

    Args:
        network, detector, attack: names.
        cases: attacked ones.
        clean_cases: held-out ones, against which AUROC is computed.
        unaware_auroc, adaptive_auroc: of both attackers' images against clean ones.
        unaware_wrong, adaptive_wrong: share of successful attacks.
        unaware_risk, adaptive_risk: share that is wrong and accepted.
        steps: of one attack, over all its restarts; queries of one without gradients.
        effort: who knew the detector and took part, with which weights of it in the objective; each ran twice.
        strongest: whose image it is that the adaptive columns count, most frequent first.
        cpu_seconds: of all attacks together.
    """

    network: str
    detector: str
    attack: str
    cases: int
    clean_cases: int
    unaware_auroc: float
    adaptive_auroc: float
    unaware_wrong: float
    adaptive_wrong: float
    unaware_risk: float
    adaptive_risk: float
    steps: int
    effort: str
    strongest: str
    cpu_seconds: float


def fitted(subject: Subject, name: str) -> Detector | None:
    """A calibrated detector; None where it does not apply."""
    detector = DETECTORS[name](subject)
    if detector is not None:
        detector.calibrate(subject.calibrate, subject.rate)
    return detector


def clean_rows(subject: Subject, network: str, name: str, detector: Detector) -> Iterator[CleanRow]:
    """Held-out clean images and shifted ones."""
    calibrated = sum(len(batch) for batch in subject.calibrate)
    for images, batches in {HELD_OUT: subject.held_out, **subject.shifted}.items():
        accepted = torch.cat([detector.accept(batch) for batch in batches])
        yield CleanRow(network, name, images, subject.rate, calibrated, len(accepted), int((~accepted).sum()))


def attack_rows(
    subject: Subject,
    network: str,
    name: str,
    detector: Detector,
    wanted: Sequence[str],
    known: Sequence[AttackRow] = (),
) -> Iterator[AttackRow]:
    """The attacks of these names; the long one where the detector stands by these and the known rows."""
    found = list(known)
    clean = torch.cat([detector.score(batch) for batch in subject.held_out]).cpu()
    hides = "hiding" in (*subject.effort.attackers, *subject.long_effort.attackers)
    own = isinstance(detector, FeatureDetector)  # such a detector is itself what one hides in
    density = detection.GaussianDensity(subject.model).fit(subject.fit) if hides and not own else None
    for attack in wanted:
        if attack == LONG and not stands(found):
            continue
        begin = time.process_time()
        used = subject.attacks[attack]
        effort = subject.long_effort if attack == LONG else subject.effort
        row = evaluate_detector(
            detector, used, [subject.attacked], effort.weights, attack, effort.attackers, density=density
        )
        numbers = replace(row, clean_scores=clean, clean_accepted=detector.accepts(clean)).numbers(subject.rate)
        keys = ("auroc", "wrong", "adversarial_risk")
        values = [round(numbers[f"{who}_{key}"], 4) for key in keys for who in ("unaware", "adaptive")]
        seconds = round(time.process_time() - begin, 1)
        assert row.adaptive is not None
        steps = used.steps * used.restarts
        counts = (network, name, attack, len(subject.attacked[0]), len(clean))
        effort = effort.of(row.adaptive.tried)
        found.append(AttackRow(*counts, *values, steps, str(effort), _most_frequent(row.adaptive.attackers), seconds))
        yield found[-1]


def _most_frequent(names: Sequence[str]) -> str:
    """Names with how often each is there."""
    return "; ".join(f"{name}: {count}" for name, count in Counter(names).most_common())


def stands(rows: Iterable[AttackRow]) -> bool:
    """Whether a detector rejects at least half of what is wrong after Auto-PGD by an attacker who knows it."""
    return any(row.attack == "Auto-PGD" and row.adaptive_risk <= row.adaptive_wrong / 2 for row in rows)


def attack_table(measured: Sequence[AttackRow], network: str) -> str:
    """Markdown of one network: a row for each detector, for each attack ``unaware / adaptive``, AUROC and risk."""
    own = [row for row in measured if row.network == network]
    order = list(BUDGETS[MRI].attacks())  # all networks have the same attacks
    attacks = sorted(dict.fromkeys(row.attack for row in own), key=order.index)
    found = {(row.detector, row.attack): row for row in own}
    lines = []
    wrong = ", ".join(f"{attack} {max(r.unaware_wrong for r in own if r.attack == attack):.2f}" for attack in attacks)
    cases, clean = (_span(getattr(row, name) for row in own) for name in ("cases", "clean_cases"))
    counts = f"**{network}**: {cases} attacked cases, {clean} clean ones."
    budget = f"{BUDGETS[network]} " if network in BUDGETS else ""
    said = f"{counts} {budget}Share of wrong answers by the unaware attacker: {wrong}."
    lines += [*textwrap.wrap(said, 120), ""]
    for title, kind, digits in (("AUROC", "auroc", 2), ("Wrong and accepted", "risk", 2)):
        lines += [f"| {title}, unaware / adaptive | {' | '.join(attacks)} |", "|---|" + "---|" * len(attacks)]
        for detector in dict.fromkeys(row.detector for row in own):
            cells = []
            for attack in attacks:
                row = found.get((detector, attack))
                values = [getattr(row, f"{who}_{kind}") for who in ("unaware", "adaptive")] if row else []
                cells.append(" / ".join(f"{value:.{digits}f}" for value in values))
            lines.append(f"| {detector} | {' | '.join(cells)} |")
        lines.append("")
    lines += textwrap.wrap(_efforts(own), 120, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).rstrip()


def _span(counts: Iterable[int]) -> str:
    """One number, or the lowest and highest of several."""
    found = sorted(set(counts))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _efforts(rows: Sequence[AttackRow]) -> str:
    """What those who know the detector did, and which of them made the images that count."""
    tried = Counter(row.effort for row in rows)
    text = f"Who knew the detector: {'; '.join(f'{effort} ({count} cells)' for effort, count in tried.most_common())}."
    whose: Counter[str] = Counter()
    for one in "; ".join(row.strongest for row in rows if row.strongest).split("; "):
        name, _, count = one.rpartition(": ")
        whose[name.partition(",")[0]] += int(count or 0)
    if whose.total():
        shares = ", ".join(f"{name} {count / whose.total():.2f}" for name, count in whose.most_common() if count)
        text += f" Whose image it is, of {whose.total()} that were noted: {shares}."
    return text


def clean_table(measured: Sequence[CleanRow]) -> str:
    """Markdown: clean rejection with its interval, and what other scanners do to it."""
    lines = []
    for network in dict.fromkeys(row.network for row in measured):
        own = [row for row in measured if row.network == network]
        shifts = [name for name in dict.fromkeys(row.images for row in own) if name != HELD_OUT]
        first = own[0]
        lines += [
            f"**{network}**: calibrated at {first.asked:.0%}.",
            "",
            "| rejected | calibrated, measured | held out, 95 % interval | what chance allows | "
            f"within {ROOM:.0%} of the asked rate | {' | '.join(shifts)} |",
            "|---|---|---|---|---|" + "---|" * len(shifts),
        ]
        for detector in dict.fromkeys(row.detector for row in own):
            of = {row.images: row for row in own if row.detector == detector}
            low, high = of[HELD_OUT].interval()
            share = of[HELD_OUT].share
            lowest, highest = of[HELD_OUT].allowed()
            cells = [
                f"{of[HELD_OUT].calibrated}, {of[HELD_OUT].cases}",
                f"{share:.3f} [{low:.3f}, {high:.3f}]",
                f"{lowest:.3f} to {highest:.3f}",
                _verdict(of[HELD_OUT]),
            ]
            for shift in shifts:
                moved = of[shift].share
                cells.append(f"{moved:.2f}" if moved <= TIMES * max(share, first.asked) else f"**{moved:.2f}**")
            lines.append(f"| {detector} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _verdict(row: CleanRow) -> str:
    """Whether the interval lies in the room around the asked rate, outside it, or says neither."""
    low, high = row.interval()
    if row.asked - ROOM <= low and high <= row.asked + ROOM:
        return "yes"
    if high < row.asked - ROOM or low > row.asked + ROOM:
        return "**no**"
    near = "yes" if abs(row.share - row.asked) <= ROOM else "no"
    return f"{near}, not certain"


def with_table(text: str, folder: Path) -> str:
    """The page with its tables made anew from the CSV files in ``folder``."""
    attacked, clean = read_rows(folder / TABLE, AttackRow), read_rows(folder / CLEAN, CleanRow)
    order = {name: place for place, name in enumerate(DETECTORS)}
    places = {name: place for place, name in enumerate(BUDGETS)}
    attacked.sort(key=lambda row: (places[row.network], order[row.detector]))
    clean.sort(key=lambda row: (places[row.network], order[row.detector]))
    whole = "\n\n".join(attack_table(attacked, name) for name in dict.fromkeys(row.network for row in attacked))
    return replace_table(replace_table(text, TABLE, whole), CLEAN, clean_table(clean))


def main() -> int:
    """Measure what is missing, and renew the page where its CSV file was written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detector_table", description=__doc__)
    parser.add_argument("output", type=Path, help="CSV file; rows that it and the one beside it have are kept")
    parser.add_argument("--only", nargs="+", help="networks whose name contains one of these")
    parser.add_argument("--detectors", nargs="+", choices=tuple(DETECTORS), default=tuple(DETECTORS))
    parser.add_argument("--attacks", nargs="+", help="attacks of these names; all where none is named")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the trained networks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    beside = arguments.output.with_name(CLEAN)
    attacked, clean = read_rows(arguments.output, AttackRow), read_rows(beside, CleanRow)
    for network, load in SUBJECTS.items():
        if arguments.only and not any(part in network for part in arguments.only):
            continue
        subject = load(data_folder(), arguments.cache)
        for name in arguments.detectors:
            if name in subject.left_out:
                continue
            own = [row for row in attacked if (row.network, row.detector) == (network, name)]
            has_clean = any((row.network, row.detector) == (network, name) for row in clean)
            missing = [
                one
                for one in subject.attacks
                if one not in {row.attack for row in own} and (not arguments.attacks or one in arguments.attacks)
            ]
            if has_clean and not missing:
                continue
            seen = subject.thinned() if name in MANY_PASSES else subject
            detector = fitted(seen, name)
            if detector is None:
                continue
            if not has_clean:
                clean += clean_rows(seen, network, name, detector)
                write_rows(beside, clean, CleanRow)
            for row in attack_rows(seen, network, name, detector, missing, own):
                attacked.append(row)
                write_rows(arguments.output, attacked, AttackRow)
                print(row, flush=True)
    if arguments.output.resolve() == (DOCS / TABLE).resolve() and (DOCS / PAGE).is_file():
        page = DOCS / PAGE
        page.write_text(with_table(page.read_text(encoding="utf-8"), DOCS), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
