# SPDX-License-Identifier: Apache-2.0
"""Where a network looks for each organ: MONAI's Grad-CAM, window by window, on a copy of the network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.visualize import GradCAM
from torch import nn

from monai_adversarial.metrics.dice import hard_prediction
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.layers import check_layers, encoder_layers
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.models.window_run import WindowRun
from monai_adversarial.utils.modules import bare_network
from monai_adversarial.utils.plain import as_plain, detached
from monai_adversarial.utils.validation import check_image

__all__ = ["grad_cam"]

Ask = Callable[[torch.Tensor], torch.Tensor]


def grad_cam(
    model: Any, image: torch.Tensor, classes: Sequence[int] | None = None, layer: str | None = None
) -> torch.Tensor:
    """Grad-CAM attention map of each class: which parts of a layer the class's answer rests on.

    For a segmentation what is explained is the sum of a class's logits over the voxels that are given this class
    (Seg-Grad-CAM). A class that is found nowhere has a map of zeros. The maps of windows are weighted as the inferer
    weights their answers. Values are not scaled: maps of a clean and of an attacked image can be compared.

    MONAI's ``GradCAM`` leaves hooks in the network that it is given, and sets its gradients to zero. Here it gets a
    copy, so that the model stays as it was. Each class takes a forward and a backward pass.

    >>> from monai_adversarial.attacks import grad_cam
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> attention = grad_cam(model, image, classes=[2])  # the liver, in the only layer that the network has
    >>> attention.shape, bool((attention >= 0).all())
    (torch.Size([1, 1, 16, 16, 16]), True)

    Args:
        model: network or ``AttackedModel``, in its scoring precision; its inferer is None or slides windows.
        image: (batch, channel, spatial...) in the model's image units.
        classes: output channels to explain; None for all, without the background of a softmax segmentation.
        layer: name as in ``network.named_modules()``, of a layer that returns a map (batch, channel, spatial...); None
            for the last one at the coarsest resolution.

    Returns:
        (batch, class, spatial...), float32, at least 0, in the units of logit times activation.

    Raises:
        TypeError: for a model that holds no ``torch.nn.Module``.
        ValueError: for an image, classes or a layer that do not fit, and a network that is called more than once for an
            image other than by sliding windows.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, by MONAI. For segmentations Vinogradova, Dibrov and Myers, "Towards
    interpretable semantic segmentation via gradient-weighted class activation mapping", AAAI 2020, as its abstract
    describes it.

    Survey entry: M06 (adapted).
    """
    check_image(image)
    given = AttackedModel.wrap(model)
    original = bare_network(given.network)
    if not isinstance(original, nn.Module):
        raise TypeError(
            f"model must hold a torch.nn.Module, whose layers can be watched, got {type(original).__name__}."
        )
    network = _copy_of(original)
    known = given.replace(
        network=network, precision=given.scoring_precision, checkpoint_layers=False, compile_network=False
    )
    predictor = Predictor(known, image, known.units_for(None))
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        part = known.image_part(detached(image))
        with torch.no_grad():
            predictor.learn(part)
        channels = _channels(known, classes)
        chosen = layer if layer is not None else encoder_layers(predictor, part)[-1]
        check_layers([chosen], [network])
        run = predictor.windows(part)
        if run is None:
            return _maps(known, network, predictor, part, channels, chosen).float()
        return _stitched(run, known, network, channels, chosen).float()


def _copy_of(network: nn.Module) -> nn.Module:
    """In evaluation mode with frozen weights; nothing writes into a layer's output, which a hook has to keep."""
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    for module in copied.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return copied


def _channels(model: AttackedModel, classes: Sequence[int] | None) -> list[int]:
    count = model.found_classes
    assert count is not None
    if classes is None:
        has_background = not model.classifies and model.activation_of(count) == "softmax"
        return list(range(1 if has_background else 0, count))
    wrong = [c for c in classes if isinstance(c, bool) or not isinstance(c, int) or not 0 <= c < count]
    if wrong or not len(classes):
        raise ValueError(f"classes must be output channels from 0 to {count - 1}, got {list(classes)!r}.")
    return list(classes)


class _Explained(nn.Module):
    """The answer as one number per class, (image, class), which is what Grad-CAM explains."""

    def __init__(self, network: nn.Module, ask: Ask, model: AttackedModel) -> None:
        super().__init__()
        self.network = network  # by whose names layers are found
        self._ask, self._model = ask, model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Sums of logits."""
        logits = self._ask(image)
        if self._model.classifies:
            return logits.flatten(2).sum(dim=2)
        activation = self._model.activation_of(logits.shape[1])
        found = hard_prediction(logits.detach(), activation)
        if activation == "softmax":
            channels = torch.arange(logits.shape[1], device=logits.device)
            found = found == channels.view(1, -1, *[1] * (logits.ndim - 2))
        return (logits * found).flatten(2).sum(dim=2)


def _maps(
    model: AttackedModel, network: nn.Module, ask: Ask, images: torch.Tensor, channels: Sequence[int], layer: str
) -> torch.Tensor:
    """Maps of some images or windows, (image, class, spatial...)."""
    hooked = network.get_submodule(layer)
    kept = hooked._forward_hooks.copy(), hooked._backward_hooks.copy()
    explain = GradCAM(_Explained(network, ask, model), f"network.{layer}", postprocessing=lambda found: found)
    seen: list[Any] = []
    count = hooked.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        found = []
        for channel in channels:
            seen.clear()
            with torch.enable_grad():
                leaf = images.detach().clone().requires_grad_()
                found.append(_checked(explain, leaf, channel, seen, layer))
    finally:
        count.remove()
        hooked._forward_hooks, hooked._backward_hooks = kept  # MONAI leaves its own behind
    return torch.cat(found, dim=1)


def _checked(explain: GradCAM, leaf: torch.Tensor, channel: int, seen: list[Any], layer: str) -> torch.Tensor:
    try:
        found = explain(leaf, class_idx=channel)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"layer must return a map (batch, channel, spatial...) in each pass of the network, got {layer!r} "
            f"({type(error).__name__}: {error})."
        ) from None
    if len(seen) != 1 or not isinstance(seen[0], torch.Tensor) or seen[0].ndim != leaf.ndim:
        shape = tuple(seen[0].shape) if seen and isinstance(seen[0], torch.Tensor) else "no tensor"
        raise ValueError(
            f"layer must run once for an image and return a map with {leaf.ndim} dimensions, but {layer!r} ran "
            f"{len(seen)} times and returned {shape}."
        )
    return as_plain(found).detach()


def _stitched(
    run: WindowRun, model: AttackedModel, network: nn.Module, channels: Sequence[int], layer: str
) -> torch.Tensor:
    """Maps of the windows, weighted as their answers are."""
    plan = run.plan
    image = plan.image
    total = image.new_zeros(image.shape[0], len(channels), *image.shape[2:])
    weights = image.new_zeros(image.shape[0], 1, *image.shape[2:])
    weight = 1.0 if plan.windows.weight is None else plan.windows.weight.to(image)
    for where in run.batches():

        def ask(windows: torch.Tensor, where: Any = where) -> torch.Tensor:
            return run.logits(run.outputs(list(windows.split(1)), where))

        windows = torch.cat([image[index] for index in where])
        maps = _maps(model, network, ask, windows, channels, layer)
        for index, found in zip(where, maps.split(1), strict=True):
            place = (index[0], slice(None), *index[2:])
            total[place] += weight * found
            weights[place] += weight
    inside = plan.inside([slice(0, size) for size in image.shape[2:]])[1]
    return (total / weights)[(slice(None), slice(None), *inside)]
