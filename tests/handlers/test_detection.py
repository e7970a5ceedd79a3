# SPDX-License-Identifier: Apache-2.0
"""A detector in a real evaluator flags cases, or empties their predictions before anything is made of them. Run as a
script by torchrun, it is one of two processes of which the second has no cases."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.transforms import AsDiscreted

from monai_adversarial.detection import Detector
from monai_adversarial.handlers import DetectionHandler
from monai_adversarial.models import AttackedModel
from tests.two_processes import leave, run_two_processes


class Brightness(Detector):
    needs_fit = False

    def _suspicion(self, image, like, smooth):
        return image.flatten(1).mean(dim=1)


class Above(torch.nn.Module):
    """Class 1 where the image is above a half."""

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, image):
        return torch.cat([self.level - image, image - self.level], dim=1)


def brightness() -> Detector:
    made = Brightness(AttackedModel(Above(), output_values="logits"))
    made.calibrate(torch.linspace(0.1, 0.9, 9).view(9, 1, 1, 1).expand(9, 1, 4, 4).clone(), 0.1)
    return made


@pytest.fixture
def detector() -> Detector:
    return brightness()


LEVELS = (0.7, 2.0, 0.6)


def mean_dice() -> dict[str, MeanDice]:
    return {"dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))}


def evaluator(detector, handlers, levels=LEVELS, metrics=None) -> SupervisedEvaluator:
    items = [{"image": torch.full((1, 4, 4), level), "label": torch.ones(1, 4, 4)} for level in levels]
    return SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader(Dataset(items), batch_size=2),
        detector.model.network,
        postprocessing=AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=2),
        key_val_metric=metrics,
        val_handlers=handlers,
    )


@pytest.mark.parametrize(("action", "dice"), [("flag", 1.0), ("reject", 2 / 3)])
def test_suspicious_cases_are_flagged_or_emptied(detector, action, dice, caplog) -> None:
    seen = []
    made = evaluator(detector, [DetectionHandler(detector, action, "seen")], metrics=mean_dice())
    made.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.extend(engine.state.output))
    with caplog.at_level(logging.WARNING):
        made.run()
    assert [bool(case["seen_accepted"]) for case in seen] == [True, False, True]
    assert [round(float(case["seen_score"]), 4) for case in seen] == [0.7, 2.0, 0.6]
    assert made.state.metrics["seen_rejected"] == pytest.approx(1 / 3)
    assert made.state.metrics["dice"] == pytest.approx(dice)
    assert made.state.metric_details["seen"][:, 1].tolist() == [1.0, 0.0, 1.0]
    assert "image 1 of the batch is suspicious, score 2 above 0.9" in caplog.text
    made.run()  # nothing is left of the first run
    assert made.state.metric_details["seen"].shape == (3, 2)


@pytest.mark.parametrize("values", ["logits", "probabilities"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_emptied_prediction_is_background(detector, values, channels) -> None:
    detector.model.found_output_values = values
    found = DetectionHandler(detector, "reject")._emptied(torch.rand(2, channels, 4, 4), [1])
    if channels == 1:
        assert float(found[1].max()) <= 0
    else:
        assert bool((found[1].argmax(dim=0) == 0).all()) and float(found[1].max()) >= 1
    assert float(found[0].min()) >= 0


def test_what_cannot_work_is_refused(detector) -> None:
    with pytest.raises(ValueError, match="must have a threshold to reject by"):
        DetectionHandler(Brightness(Above()))
    with pytest.raises(ValueError, match="action must be one of"):
        DetectionHandler(detector, "drop")
    with pytest.raises(ValueError, match="name must be an identifier"):
        DetectionHandler(detector, name="my detector")
    with pytest.raises(RuntimeError, match="must hold the image 'scan'"):
        evaluator(detector, [DetectionHandler(detector, image_key="scan")]).run()


def reported(levels) -> dict[str, object]:
    """What the handler says of cases of these levels and of those of the other processes."""
    made = evaluator(brightness(), [DetectionHandler(brightness())], levels or LEVELS)
    if levels:
        made.run()
    else:  # MONAI does not run an evaluator whose loader is empty; an engine of its own may
        made.state.metrics, made.state.metric_details = {}, {}
        made.fire_event(Events.EPOCH_STARTED)
        made.fire_event(Events.EPOCH_COMPLETED)
    return {
        "rejected": made.state.metrics["detection_rejected"],
        "rows": made.state.metric_details["detection"].tolist(),
    }


@pytest.mark.slow
def test_two_processes_report_all_cases_also_where_one_has_none(tmp_path) -> None:
    run_two_processes(__file__, tmp_path)
    expected = reported(LEVELS)
    assert expected["rejected"] == pytest.approx(1 / 3)
    for rank in (0, 1):
        shared, alone = json.loads((tmp_path / f"{rank}.json").read_text())
        assert shared == alone == expected


def test_an_engine_that_shows_nothing_is_refused() -> None:
    with pytest.raises(RuntimeError, match="fired no FORWARD_COMPLETED event, so DetectionHandler has seen no image"):
        reported(())


def test_images_that_the_detector_knows_are_said_once(detector) -> None:
    made = evaluator(detector, [DetectionHandler(detector)], levels=(0.1, 0.15))
    with pytest.warns(UserWarning, match="fitted to or calibrated on") as caught:
        made.run()
        made.run()
    assert sum("fitted to or calibrated on" in str(one.message) for one in caught) == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    found = [reported(shares[rank]) for shares in ((LEVELS[:1], LEVELS[1:]), (LEVELS, ()))]
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(found))
    leave()
