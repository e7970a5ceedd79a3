# SPDX-License-Identifier: Apache-2.0
"""What a network says of a batch, in the memory of a class map."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from monai_adversarial.metrics.dice import class_map_dtype, hard_prediction
from monai_adversarial.models.output_values import OutputReading, OutputSummary

__all__ = ["Answer", "AnswerBuilder"]


@dataclass(frozen=True)
class Answer:
    """A segmentation, without the logits that it was read from. That of a classifier is one of a single voxel, (batch,
    1 or class, 1).

    Args:
        prediction: class map (batch, 1, spatial...), or masks (batch, class, spatial...) for sigmoid outputs, in the
            smallest integers.
        classes: the network's output channels.
        reading: what the output's values were taken for.
        summary: of the output's values.
    """

    prediction: torch.Tensor
    classes: int
    reading: OutputReading
    summary: OutputSummary

    @property
    def activation(self) -> str:
        """``"softmax"`` or ``"sigmoid"``: how the prediction was read."""
        assert self.reading.activation is not None
        return self.reading.activation

    def equals(self, other: Answer) -> bool:
        """Whether another pass gave the same: the network is not random then."""
        return self.summary.equals(other.summary) and torch.equal(self.prediction, other.prediction)

    def share_of_others(self, other: Answer) -> float:
        """Share of the voxels to which another pass gave another class."""
        return float((self.prediction != other.prediction).double().mean())

    def select(self, rows: torch.Tensor) -> Answer:
        """The answer to some of the samples; the summary stays that of all."""
        return replace(self, prediction=self.prediction.index_select(0, rows))


class AnswerBuilder:
    """Makes an answer from pieces of the stitched output.

    Args:
        image: the batch that is predicted.
        grid: spatial shape of the answer.
        classes: the network's output channels.
        reading: what the output's values are, with an activation.
    """

    def __init__(self, image: torch.Tensor, grid: tuple[int, ...], classes: int, reading: OutputReading) -> None:
        masks = reading.activation == "sigmoid"
        shape = (image.shape[0], classes if masks else 1, *grid)
        dtype = torch.uint8 if masks else class_map_dtype(classes)
        self.prediction = torch.zeros(shape, dtype=dtype, device=image.device)
        self.classes, self.reading = classes, reading
        self.summary = OutputSummary(classes)

    def add(self, rows: slice, where: tuple[slice, ...], output: torch.Tensor) -> None:
        """One finished piece (rows, class, box) of the output."""
        self.summary.add(output)
        assert self.reading.activation is not None
        if self.reading == OutputReading("probabilities", "sigmoid"):
            output = output - 0.5  # a logit of zero is a probability of a half; with softmax the order is the same
        found = hard_prediction(output, self.reading.activation)
        self.prediction[(rows, slice(None), *where)] = found.to(self.prediction.device)

    def finish(self) -> Answer:
        """The answer."""
        return Answer(self.prediction, self.classes, self.reading, self.summary)
