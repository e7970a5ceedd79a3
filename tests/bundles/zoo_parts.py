# SPDX-License-Identifier: Apache-2.0
"""What Model Zoo bundles bring in scripts of their own, in a few lines each."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.transforms import MapTransform
from monai.utils import CommonKeys
from torch import nn

from tests.helpers import tiny_segmentation_network


class JoinPhases(MapTransform):
    """Makes the image from several others, as an array, as a bundle for contrast phases does."""

    def __init__(self, keys_merge: list[str], keys_out: str) -> None:
        self.keys_merge, self.keys_out = keys_merge, keys_out

    def __call__(self, data: Any) -> Any:
        """Join."""
        data[self.keys_out] = np.concatenate([np.asarray(data[key]) for key in self.keys_merge])
        return data


class JoinChanged(JoinPhases):
    """One of the phases is changed on the way."""

    def __call__(self, data: Any) -> Any:
        """Join."""
        data[self.keys_out] = np.concatenate([np.asarray(data[key]) ** 2 for key in self.keys_merge])
        return data


class FlowsToCells(MapTransform):
    """Reads the answer in its own way, as instance segmentation does."""

    def __call__(self, data: Any) -> Any:
        """The first channel."""
        return {**data, "pred": data["pred"][:1] > 0}


class Resolutions(nn.Module):
    """Answers on the image's grid and on a coarser one."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny_segmentation_network()

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Fine and coarse."""
        answer = self.network(image)
        return [answer, nn.functional.avg_pool3d(answer, 2)]


class Branches(nn.Module):
    """Several answers with names, on a smaller grid."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny_segmentation_network(3, 2, spatial_dims=2)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Nuclei and maps."""
        answer = self.network(image)[:, :, 4:-4, 4:-4]
        return {"nucleus_prediction": answer, "horizontal_vertical": answer}


class Classifier(nn.Module):
    """One answer for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, class)."""
        return self.layer(image).mean(dim=(2, 3))


class Prompted(nn.Module):
    """One channel for each class that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny_segmentation_network(out_channels=5)

    def forward(self, image: torch.Tensor, class_vector: torch.Tensor) -> torch.Tensor:
        """(batch, 1, spatial...)."""
        return self.network(image)[:, class_vector]


class PromptInferer(Inferer):
    """Takes prompts beside the image and copies its input."""

    def __call__(self, inputs: torch.Tensor, network: nn.Module, class_vector: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """The network's answer."""
        return network(copy.deepcopy(inputs), class_vector)


class PromptEvaluator(SupervisedEvaluator):
    """Prepares its batch itself and hands prompts to its inferer."""

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> Any:
        inputs = batchdata["image"].to(engine.state.device)
        engine.state.output = {CommonKeys.IMAGE: inputs, CommonKeys.LABEL: None}
        with engine.mode(engine.network):
            engine.state.output[CommonKeys.PRED] = engine.inferer(
                inputs=inputs, network=engine.network, class_vector=torch.as_tensor(batchdata["prompt"])
            )
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output


class Boxes(nn.Module):
    """A detector, as far as its kind is seen."""


Boxes.__module__ = "monai.apps.detection.networks.retinanet_network"
