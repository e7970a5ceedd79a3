# SPDX-License-Identifier: Apache-2.0
"""Every detector under every attack, by an attacker who does not know it and one who does: docs/detector_table.md.

    python -m benchmarks.detector_table docs/detector_table.csv

Beside the CSV file stands another one, of clean images: how many of them each detector rejects, from the same scanner
and from others. Rows that the files have already are not measured again; networks are trained once and kept. Another
processor trains another network by the same recipe: its rows stand in a table of their own, and a row holds one alone.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import textwrap
import time
import warnings
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
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["DETECTORS", "AttackRow", "CleanRow", "attack_rows", "attack_table", "clean_rows", "clean_table"]

PAGE, TABLE, CLEAN = "detector_table.md", "detector_table.csv", "detector_table_clean.csv"
CACHE = REPOSITORY / "benchmarks" / "results" / "detector_table"
HELD_OUT = "held out"
#: by whose clean rejection a training is known again
REFERENCE = "GaussianDensity"
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
#: those that hold further networks, which the training of a row does not name
MORE_NETWORKS = ("EnsembleDisagreement", "ReconstructionError, MagNet", "ReconstructionDivergence, MagNet")


@dataclass(frozen=True)
class CleanRow:
    """How many clean images one detector rejects.

    Args:
        network, detector: names.
        images: ``"held out"``, or the shift.
        asked: false positive rate of the calibration.
        calibrated: cases of the calibration.
        cases, rejected: of these images.
        training: of the network, the beginning of its weights' SHA-256; empty where that was not noted.
    """

    network: str
    detector: str
    images: str
    asked: float
    calibrated: int
    cases: int
    rejected: int
    training: str = ""

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
        training: of the network, the beginning of its weights' SHA-256; empty where that was not noted.
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
    training: str = ""


def fitted(subject: Subject, name: str) -> Detector | None:
    """A calibrated detector; None where it does not apply."""
    detector = DETECTORS[name](subject)
    if detector is not None:
        detector.calibrate(subject.calibrate, subject.rate)
    return detector


def clean_scores(detector: Detector, batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """One score for each case of the batches, on the CPU."""
    return torch.cat([detector.score(batch) for batch in batches]).cpu()


def clean_rows(
    subject: Subject, network: str, name: str, detector: Detector, held_out: torch.Tensor, shifted: bool = True
) -> Iterator[CleanRow]:
    """Held-out clean images and shifted ones.

    Args:
        subject: whose images they are.
        network, name: of the rows.
        detector: calibrated.
        held_out: its scores of the held-out cases.
        shifted: also those from elsewhere.
    """
    calibrated = sum(len(batch) for batch in subject.calibrate)
    others = {images: clean_scores(detector, batches) for images, batches in subject.shifted.items() if shifted}
    for images, scores in {HELD_OUT: held_out, **others}.items():
        counts = len(scores), int((~detector.accepts(scores)).sum())
        yield CleanRow(network, name, images, subject.rate, calibrated, *counts, subject.training)


def attack_rows(
    subject: Subject,
    network: str,
    name: str,
    detector: Detector,
    clean: torch.Tensor,
    wanted: Sequence[str],
    known: Sequence[AttackRow] = (),
) -> Iterator[AttackRow]:
    """The attacks of these names; the long one where the detector stands by these and the known rows.

    Args:
        subject: what is attacked.
        network, name: of the rows.
        detector: calibrated.
        clean: its scores of the held-out cases.
        wanted: names of attacks.
        known: rows of the detector that are there.
    """
    found = list(known)
    hides = "hiding" in (*subject.effort.attackers, *subject.long_effort.attackers)
    own = isinstance(detector, FeatureDetector)  # such a detector is itself what one hides in
    density = detection.GaussianDensity(subject.model).fit(subject.fit) if hides and not own else None
    for attack in wanted:
        if attack == LONG and not stands(found):
            continue
        begin = time.process_time()
        used = subject.attacks[attack]
        effort = subject.long_effort if attack == LONG else subject.effort
        with warnings.catch_warnings():
            # A detector that rejects the clean images of the attacked cases would stand by that alone.
            warnings.filterwarnings("error", message=".*images that it rejects are no success of it")
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
        whose = _most_frequent(row.adaptive.attackers)
        found.append(AttackRow(*counts, *values, steps, str(effort), whose, seconds, subject.training))
        yield found[-1]


def _most_frequent(names: Sequence[str]) -> str:
    """Names with how often each is there."""
    return "; ".join(f"{name}: {count}" for name, count in Counter(names).most_common())


def stands(rows: Iterable[AttackRow]) -> bool:
    """Whether a detector rejects at least half of what is wrong after Auto-PGD by an attacker who knows it."""
    return any(row.attack == "Auto-PGD" and row.adaptive_risk <= row.adaptive_wrong / 2 for row in rows)


def of_unnoted_training(subject: Subject, network: str, clean: Sequence[CleanRow]) -> bool:
    """Whether rows of the network whose training was not noted are of this one: :data:`REFERENCE` rejects as many of
    each kind of clean images again.

    Args:
        subject: with the network that is here.
        network: its name.
        clean: all rows of clean images.
    """
    said = [row for row in clean if (row.network, row.detector, row.training) == (network, REFERENCE, "")]
    detector = fitted(subject, REFERENCE) if said else None
    if detector is None:
        return False
    here = clean_rows(subject, network, REFERENCE, detector, clean_scores(detector, subject.held_out))
    return said == [replace(row, training="") for row in here]


def note_training(path: Path, network: str, training: str) -> None:
    """Write a training beside the rows of a CSV file that are of the network and have none; where a row was measured
    stays as it is.

    Args:
        path: the file; nothing happens where there is none.
        network, training: names.
    """
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        columns, lines = list(reader.fieldnames or ()), list(reader)
    for line in lines:
        if (line["network"], line["training"]) == (network, ""):
            line["training"] = training
    with replace_when_complete(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def attack_table(measured: Sequence[AttackRow], network: str, training: str = "") -> str:
    """Markdown of one training of a network: a row for each detector, for each attack ``unaware / adaptive``, AUROC and
    risk."""
    own = [row for row in measured if (row.network, row.training) == (network, training)]
    order = list(BUDGETS[MRI].attacks())  # all networks have the same attacks
    attacks = sorted(dict.fromkeys(row.attack for row in own), key=order.index)
    found = {(row.detector, row.attack): row for row in own}
    lines = []
    wrong = ", ".join(f"{attack} {max(r.unaware_wrong for r in own if r.attack == attack):.2f}" for attack in attacks)
    cases, clean = (_span(getattr(row, name) for row in own) for name in ("cases", "clean_cases"))
    counts = f"{_title(network, training)}: {cases} attacked cases, {clean} clean ones."
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


def _title(network: str, training: str) -> str:
    """Of a table: network and weights."""
    return f"**{network}**, weights {training}" if training else f"**{network}**"


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
    for network, training in _trainings(measured):
        own = [row for row in measured if (row.network, row.training) == (network, training)]
        shifts = [name for name in dict.fromkeys(row.images for row in own) if name != HELD_OUT]
        first = own[0]
        lines += [
            f"{_title(network, training)}: calibrated at {first.asked:.0%}.",
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


def _trainings(rows: Iterable[AttackRow | CleanRow]) -> list[tuple[str, str]]:
    """Networks with their trainings, each once: those whose training was not noted first, then as they come."""
    found = dict.fromkeys((row.network, row.training) for row in rows)
    places = {name: place for place, name in enumerate(dict.fromkeys(name for name, _ in found))}
    return sorted(found, key=lambda one: (places[one[0]], one[1] != ""))


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
    whole = "\n\n".join(attack_table(attacked, *one) for one in _trainings(attacked))
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
        training = subject.training
        if of_unnoted_training(subject, network, clean):
            for file in (arguments.output, beside):
                note_training(file, network, training)
            attacked, clean = read_rows(arguments.output, AttackRow), read_rows(beside, CleanRow)
        print(f"{network}: weights {training}", flush=True)
        for name in arguments.detectors:
            if name in subject.left_out:
                continue
            key = network, name, training
            own = [row for row in attacked if (row.network, row.detector, row.training) == key]
            has_clean = any((row.network, row.detector, row.training) == key for row in clean)
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
            held_out = clean_scores(detector, seen.held_out)
            # shifted images tell further networks again; the network itself is told by its training
            shifted = not has_clean or name in MORE_NETWORKS
            here = list(clean_rows(seen, network, name, detector, held_out, shifted))
            if not has_clean:
                clean += here
                write_rows(beside, clean, CleanRow)
            elif any(row not in clean for row in here):
                raise SystemExit(
                    f"{beside} has {name} on {network} with other networks than those of {arguments.cache}, of which "
                    f"clean images are rejected {', '.join(f'{row.rejected} ({row.images})' for row in here)}: measure "
                    "the whole row into another file."
                )
            for row in attack_rows(seen, network, name, detector, held_out, missing, own):
                attacked.append(row)
                write_rows(arguments.output, attacked, AttackRow)
                print(row, flush=True)
    if arguments.output.resolve() == (DOCS / TABLE).resolve() and (DOCS / PAGE).is_file():
        page = DOCS / PAGE
        page.write_text(with_table(page.read_text(encoding="utf-8"), DOCS), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
