# SPDX-License-Identifier: Apache-2.0
"""What fit and score of each detector cost, as multiples of one prediction of the same volume by the same network.

python -m benchmarks.detector_cost            # measures, and writes docs/detector_cost.csv and the table on the page
python -m benchmarks.detector_cost --page     # the table alone, from the CSV file
"""

from __future__ import annotations

import argparse
import csv
import gc
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet

from benchmarks.doc_tables import DOCS, replace_table
from benchmarks.fresh_process import status_megabytes
from benchmarks.timing import Stopwatch
from monai_adversarial import detection
from monai_adversarial.detection.answers import answer_of_image
from monai_adversarial.models import AttackedModel
from monai_adversarial.transforms import GaussianDenoise
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["MOST", "detectors", "main", "markdown", "measure", "read", "write"]

#: what fit and score may cost where no gradient is needed, in predictions
MOST = 1.3
CSV = "detector_cost.csv"
CASES = 4
#: passes through the network, of those that need one
COLUMNS = ("detector", "passes", "fit", "score", "score_low", "score_high", "megabytes", "rounds")


def network(channels: tuple[int, ...]) -> torch.nn.Module:
    """A U-Net with dropout for 8 classes, of random weights: what they are does not change what it costs."""
    torch.manual_seed(0)
    strides = (2,) * (len(channels) - 1)
    return UNet(3, 1, 8, channels=channels, strides=strides, num_res_units=1, norm="batch", dropout=0.1).eval()


def detectors(model: AttackedModel, other: AttackedModel) -> dict[str, tuple[str, detection.Detector]]:
    """Name -> (passes through the network as text, detector). "1" is held to the limit.

    Args:
        model: what is protected.
        other: the second of an ensemble, of the same size.
    """
    identity: dict[str, Any] = {"intensity": {"a_min": 0, "a_max": 1}, "spacing": 1.0}
    made: dict[str, tuple[str, detection.Detector]] = {
        kind.__name__: ("1", kind(model))
        for kind in (
            detection.GaussianDensity,
            detection.MahalanobisDistance,
            detection.GaussianMixtureDensity,
            detection.KernelDensity,
            detection.LocalIntrinsicDimensionality,
            detection.PredictionEntropy,
            detection.SegmentationPlausibility,
            detection.FeatureClassifier,
        )
    }
    made["GaussianDensity, organs"] = "1", detection.GaussianDensity(model, pooling="organs")
    made["FrequencyProfile"] = "0", detection.FrequencyProfile(model)
    made["ReconstructionError"] = "0", detection.ReconstructionError(model, GaussianDenoise(**identity))
    made["ReconstructionDivergence"] = "2", detection.ReconstructionDivergence(model, GaussianDenoise(**identity))
    made["FeatureSqueezing"] = "2", detection.FeatureSqueezing(model, [GaussianDenoise(**identity)])
    made["EnsembleDisagreement"] = "2", detection.EnsembleDisagreement(model, [other])
    made["OrientationConsistency"] = "5", detection.OrientationConsistency(model)
    made["SaliencyConcentrationDetector"] = "1, with gradient", detection.SaliencyConcentrationDetector(model)
    made["NoiseSensitivity"] = "4, with gradient", detection.NoiseSensitivity(model)
    made["AttributionReconstruction"] = "9, with gradient", detection.AttributionReconstruction(model)
    made["DropoutUncertainty"] = "20", detection.DropoutUncertainty(model)
    return made


def _fit_per_case(detector: detection.Detector, images: list[torch.Tensor]) -> float:
    """CPU seconds; the one detector that has to see attacks takes the negatives of the images for them."""
    if isinstance(detector, detection.FeatureClassifier):
        attacked = [1 - image for image in images]
        return _cpu(lambda: detector.fit(images, attacked=attacked)) / (2 * len(images))
    return _cpu(lambda: detector.fit(images)) / len(images)


def _cpu(work: Callable[[], Any]) -> float:
    watch = Stopwatch()
    work()
    return watch.seconds()[1]


def _peak(work: Callable[[], Any]) -> float:
    """Megabytes above what the process had."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = status_megabytes("VmRSS")
    work()
    return status_megabytes("VmHWM") - before


def measure(
    window: int = 48,
    channels: tuple[int, ...] = (16, 32, 48, 64),
    rounds: int = 5,
    only: str = "",
    known: Collection[str] = (),
) -> Iterator[dict[str, Any]]:
    """A row per detector, the prediction itself first.

    Args:
        window: voxels of a sliding window along each axis; the volume has two of them.
        channels: of the U-Net.
        rounds: interleaved: in each, one prediction and one score.
        only: names of detectors that hold this text.
        known: rows that are there already.
    """
    model, other = (AttackedModel(network(channels), SlidingWindowInferer((window,) * 3, 1, 0.0)) for _ in range(2))
    draw = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 1, window, window, 2 * window, generator=draw) for _ in range(CASES + 1)]
    last = images[-1]

    def predict() -> None:
        answer_of_image(model, last, last)

    predict()
    if "one prediction" not in known:
        yield _row("one prediction", "1", None, [1.0], _peak(predict), rounds)
    for name, (passes, detector) in detectors(model, other).items():
        if only not in name or name in known:
            continue
        before = median(_cpu(predict) for _ in range(2))
        fit = None
        if detector.needs_fit:
            fit = _fit_per_case(detector, images[:CASES]) / before
        detector.score(last)
        # many passes differ less from round to round
        many = rounds if passes in ("0", "1") else max(1, rounds // 3)
        ratios = []
        for _ in range(many):
            floor = _cpu(predict)
            ratios.append(_cpu(lambda detector=detector: detector.score(last)) / floor)  # type: ignore[misc]
        peak = _peak(lambda detector=detector: detector.score(last))  # type: ignore[misc]
        yield _row(name, passes, fit, ratios, peak, many)


def _row(
    name: str, passes: str, fit: float | None, ratios: list[float], megabytes: float, rounds: int
) -> dict[str, Any]:
    return {
        "detector": name,
        "passes": passes,
        "fit": "" if fit is None else f"{fit:.2f}",
        "score": f"{median(ratios):.2f}",
        "score_low": f"{min(ratios):.2f}",
        "score_high": f"{max(ratios):.2f}",
        "megabytes": f"{megabytes:.0f}",
        "rounds": str(rounds),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the page."""
    lines = [
        "| detector | passes | fit, per case | score | lowest and highest | peak memory, MB | rounds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["detector"] if row["detector"] == "one prediction" else f"`{row['detector']}`"
        kept = [name, row["passes"], row["fit"], row["score"], f"{row['score_low']} to {row['score_high']}"]
        lines.append("| " + " | ".join([*kept, row["megabytes"], row["rounds"]]) + " |")
    return "\n".join(lines)


def read() -> list[dict[str, Any]]:
    """The rows that are there."""
    if not (DOCS / CSV).is_file():
        return []
    with open(DOCS / CSV, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(rows: list[dict[str, Any]]) -> None:
    """The CSV file, whole: an interrupted run goes on where it stopped."""
    with replace_when_complete(DOCS / CSV) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Measure, and write CSV file and page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detector_cost", description=__doc__)
    parser.add_argument("--page", action="store_true", help="the table alone, from the CSV file")
    parser.add_argument("--anew", action="store_true", help="measure rows again that are in the CSV file")
    parser.add_argument("--window", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.page:
        rows = [] if options.anew else read()
        for row in measure(options.window, rounds=options.rounds, known=[row["detector"] for row in rows]):
            print(row, flush=True)
            rows.append(row)
            write(rows)
    page = DOCS / "detection.md"
    text = replace_table(page.read_text(encoding="utf-8"), CSV, markdown(read()))
    with replace_when_complete(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
