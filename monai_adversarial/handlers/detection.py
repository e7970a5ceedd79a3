# SPDX-License-Identifier: Apache-2.0
"""A detector at work in a MONAI evaluator: suspicious cases are flagged, or rejected."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys, ImageMetaKey

from monai_adversarial.detection.base import Detector
from monai_adversarial.handlers.evaluation_engine import add_first
from monai_adversarial.metrics.gathered_rows import GatheredRows
from monai_adversarial.models.doubts import warn_once
from monai_adversarial.utils.plain import as_plain, detached
from monai_adversarial.utils.validation import check_choice, check_instance

__all__ = ["DetectionHandler"]

ACTIONS = ("flag", "reject")
#: a logit that leaves no doubt
SURE = 1e4


class _Scores(GatheredRows):
    """Score and whether it is accepted, of all cases, from all processes."""

    row_shape = (2,)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        return y_pred

    def _compute_list(self, y_pred: Any, y: Any = None, **kwargs: Any) -> torch.Tensor:
        return torch.stack(list(y_pred))

    def aggregate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The rows."""
        return self.get_buffer()


class DetectionHandler:
    """Looks at every image of an evaluator with a detector, and flags or rejects what is suspicious.

    After the forward pass the output of each case gets ``{name}_score`` (float64) and ``{name}_accepted`` (boolean).
    At the end of the epoch ``engine.state.metrics`` holds ``{name}_rejected``, the share of the cases that were
    rejected, and ``engine.state.metric_details[name]`` a row (score, accepted) for each case, which MONAI's
    ``MetricsSaver`` writes. Both are of the cases of all processes, in the order of the ranks. MONAI does not run an
    evaluator whose loader is empty, so each process needs a case.

    With ``action="reject"`` the prediction of a rejected case is replaced by background everywhere, before any
    postprocessing. An empty segmentation that is written in its place means "not segmented" and not "no organ": the log
    names the case, and its output says so.

    >>> import torch
    >>> from monai.engines import SupervisedEvaluator
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import FrequencyProfile
    >>> from monai_adversarial.handlers import DetectionHandler
    >>> model = example_case()[0].replace(intensity=None, image_units="network")
    >>> images = [example_case(16, seed)[1] / 500 for seed in range(14)]
    >>> detector = FrequencyProfile(model, bands=4).fit(images[:8])
    >>> _ = detector.calibrate(images[8:12], false_positive_rate=0.2)
    >>> strange = images[13] + torch.randn(images[13].shape)
    >>> loader = [{"image": one, "label": one} for one in (images[12], strange)]
    >>> handler = DetectionHandler(detector)
    >>> evaluator = SupervisedEvaluator(torch.device("cpu"), loader, model.network, val_handlers=[handler])
    >>> evaluator.run()
    >>> bool(evaluator.state.metric_details["detection"][1, 1])  # the last case was not accepted
    False

    Args:
        detector: calibrated, of a model whose image units are those of the evaluator's images.
        action: ``"flag"`` or ``"reject"``.
        name: first part of the names in output and metrics, an identifier.
        image_key: key of the image in ``engine.state.output``.
        prediction_key: key of the prediction there.

    Raises:
        TypeError: for something else than a detector.
        ValueError: for a detector without a threshold, an unknown action, a name that is none, and rejecting what a
            classifier says, which has no answer that means nothing.
        RuntimeError: where the evaluator shows no image, or fires no ``FORWARD_COMPLETED``.
    """

    def __init__(
        self,
        detector: Detector,
        action: str = "flag",
        name: str = "detection",
        image_key: str = CommonKeys.IMAGE,
        prediction_key: str = CommonKeys.PRED,
    ) -> None:
        self.detector = check_instance("detector", detector, Detector, "GaussianDensity(model)")
        if detector.threshold is None:
            raise ValueError("detector must have a threshold to reject by: call calibrate(clean cases) first.")
        self.action = check_choice("action", action, ACTIONS)
        if not str(name).isidentifier():
            raise ValueError(f"name must be an identifier such as 'detection', got {name!r}.")
        self.name = str(name)
        self.image_key, self.prediction_key = image_key, prediction_key
        self._scores = _Scores()

    def attach(self, engine: Engine) -> None:
        """Join an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._look)
        add_first(engine, Events.EPOCH_COMPLETED, self._report)  # type: ignore[arg-type]

    def _begin(self, engine: Engine) -> None:
        self._scores.reset()

    def _look(self, engine: Engine) -> None:
        output = engine.state.output
        image = output.get(self.image_key) if isinstance(output, dict) else None
        if not isinstance(image, torch.Tensor):
            found = list(output) if isinstance(output, dict) else type(output).__name__
            raise RuntimeError(f"the evaluator's output must hold the image {self.image_key!r}, got {found}.")
        if bool(self.detector.has_seen(image).any()):
            warn_once(
                self.detector,
                "seen",
                f"{type(self).__name__} {self.name!r} looks at images that the detector was fitted to or calibrated "
                "on, of which it rejects fewer than of new ones: evaluate it on others.",
            )
        scores = self.detector.score(image)
        accepted = self.detector.accepts(scores)
        self._scores(torch.stack([scores.double(), accepted.double()], dim=1))
        output[f"{self.name}_score"], output[f"{self.name}_accepted"] = scores, accepted
        rejected = [row for row, fine in enumerate(accepted.tolist()) if not fine]
        for row in rejected:
            engine.logger.warning(
                f"{type(self).__name__} {self.name!r}: {_name_of(image, row)} is suspicious, score "
                f"{float(scores[row]):.4g} above {self.detector.threshold:.4g}"
                + (": its prediction is emptied." if self.action == "reject" else ".")
            )
        if rejected and self.action == "reject":
            output[self.prediction_key] = self._emptied(output[self.prediction_key], rejected)

    def _emptied(self, prediction: Any, rows: list[int]) -> torch.Tensor:
        """Predictions with background everywhere in some rows."""
        if self.detector.model.classifies:
            raise ValueError("action must be 'flag' for a classifier, which has no answer that means nothing.")
        if not isinstance(prediction, torch.Tensor):
            raise RuntimeError(
                f"the evaluator's {self.prediction_key!r} must be one tensor to be emptied, got "
                f"{type(prediction).__name__}."
            )
        emptied = prediction.clone()
        plain = as_plain(emptied)  # shares the memory
        probabilities = self.detector.model.found_output_values == "probabilities"
        softmax = self.detector.model.activation_of(plain.shape[1]) == "softmax"
        for row in rows:
            plain[row] = 0 if probabilities else -SURE
            if softmax:
                plain[row, 0] = 1 if probabilities else SURE
        return emptied

    def _report(self, engine: Engine) -> None:
        rows = self._scores.aggregate()  # first, since a process without cases must not leave the others waiting
        if not len(rows):
            raise RuntimeError(
                f"the evaluator fired no FORWARD_COMPLETED event, so {type(self).__name__} has seen no image: fire "
                "IterationEvents.FORWARD_COMPLETED as SupervisedEvaluator does."
            )
        engine.state.metrics[f"{self.name}_rejected"] = 1 - float(rows[:, 1].mean())
        if hasattr(engine.state, "metric_details"):
            engine.state.metric_details[self.name] = detached(rows).cpu()


def _name_of(image: torch.Tensor, row: int) -> str:
    """The file of one image of a batch, where it is known."""
    names = getattr(image, "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ)
    if isinstance(names, (list, tuple)) and row < len(names):
        return str(names[row])
    return str(names) if isinstance(names, str) else f"image {row} of the batch"
