# SPDX-License-Identifier: Apache-2.0
"""FSRAA: noise that a generator keeps on what matters, and whose features stay near those of clean images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from monai.visualize import GradCAM
from torch import nn
from torch.nn import functional

from monai_adversarial.attacks import FeatureDistance, Objective
from monai_adversarial.attacks.objectives import CleanBatch, Progress, Target
from monai_adversarial.attacks.objectives.wrapped import AroundObjective
from monai_adversarial.attacks.perturbations import AdditiveNoise, BoundPerturbation
from monai_adversarial.generators.generated_attack import GeneratedAttack
from monai_adversarial.generators.made import Made, shown_to_network
from monai_adversarial.generators.training import Settings
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["FSRAA", "FeaturesWithin", "dilated_organs", "grad_cam_focus"]

#: image as the network sees it, label or None -> (batch, 1, spatial...) between 0 and 1
Focus = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


def dilated_organs(organs: Sequence[int] | None = None, voxels: int = 3) -> Focus:
    """A focus: some classes of the label (None: all foreground), dilated by some voxels.

    Example:
        >>> import torch
        >>> from monai_adversarial.generators import dilated_organs
        >>> label = torch.zeros(1, 1, 9, 9, 9)
        >>> label[0, 0, 4, 4, 4] = 1
        >>> int(dilated_organs(voxels=1)(label, label).sum())
        27

    Args:
        organs: classes of the label.
        voxels: along each axis.

    Raises:
        ValueError: in a training without labels.

    Source: our own.
    """
    width = 2 * check_count("voxels", voxels, minimum=0) + 1

    def focus(image: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
        if label is None:
            raise ValueError("focus on organs needs a label for each case: pass labels, or grad_cam_focus(...).")
        if label.shape[1] > 1:
            chosen = label[:, 1:] if organs is None else label[:, list(organs)]
            inside = chosen.amax(dim=1, keepdim=True)
        else:
            found = torch.stack([label == organ for organ in organs]).any(dim=0) if organs is not None else label > 0
            inside = found
        pool = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}[label.ndim - 2]
        return pool((inside > 0).to(image), width, stride=1, padding=width // 2)

    return focus


def grad_cam_focus(network: nn.Module, layer: str, class_index: int | None = None) -> Focus:
    """A focus: MONAI's Grad-CAM of a class at a layer, from 0 to 1. For a segmentation the class's logits of all
    voxels are summed (Seg-Grad-CAM).

    Example:
        >>> from monai_adversarial.data.example import example_case
        >>> from monai_adversarial.generators import grad_cam_focus
        >>> model, image, label = example_case(16)
        >>> focus = grad_cam_focus(model.network, "smoothing", class_index=3)
        >>> seen = focus(model.intensity(image.as_tensor()), None)
        >>> tuple(seen.shape), float(seen.min()) >= 0, float(seen.max()) <= 1
        ((1, 1, 16, 16, 16), True, True)

    Args:
        network: whose attention it is; a copy of it is asked.
        layer: name of a layer, as in ``network.named_modules()``.
        class_index: the class; None for the predicted one of a classifier.

    Raises:
        ValueError: for a name that the network does not have.

    Source: Selvaraju et al. 2017 (Grad-CAM) and Vinogradova et al. 2020 (Seg-Grad-CAM), by MONAI.
    """
    if layer not in dict(network.named_modules()):
        raise ValueError(f"layer must be a name of the network's layers, got {layer!r}.")
    copied = copy.deepcopy(network).eval()
    for weight in copied.parameters():  # MONAI's hooks need a graph through the layer
        weight.requires_grad_(True)
    camera = GradCAM(copied, target_layers=layer)

    def focus(image: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
        with torch.enable_grad():
            # MONAI's map is largest where the class is not: its normalizer turns the map around.
            found = 1 - torch.cat([camera(one[None].detach().requires_grad_(), class_index) for one in image])
        return found.detach().to(image)

    return focus


class FeaturesWithin(AroundObjective):
    """Another objective, less what it costs that a layer's features leave a ball around those of the clean image.

    Example:
        >>> from monai_adversarial.attacks import PGD
        >>> from monai_adversarial.data.example import example_case
        >>> from monai_adversarial.generators import FeaturesWithin
        >>> model, image, label = example_case(16)
        >>> held = PGD(12, "HU", steps=5, objective=FeaturesWithin("dice", ["smoothing"], 0.001, weight=100.0))
        >>> free = PGD(12, "HU", steps=5, objective="dice")
        >>> bool(free(model, image, label).adversarial_dice < held(model, image, label).adversarial_dice)
        True

    Args:
        objective: what is wanted.
        layers: see :class:`~monai_adversarial.attacks.FeatureDistance`, whose measure the radius is in: the mean over
            layers of the squared distance, as a share of the squared length of the clean features.
        radius: of the ball, in that measure.
        weight: of what lies beyond it.

    Raises:
        ValueError: for no layers, a negative radius or weight, and for a network that runs in windows.

    Source: the idea of the restricted feature space is Wang et al. 2022, whose equations could not be read; one ball
    around each clean image instead of one around a class.

    Survey entry: A18 (reconstruction).
    """

    def __init__(self, objective: str | Objective, layers: Sequence[str], radius: float, weight: float = 1.0) -> None:
        super().__init__(objective)
        self.distance = FeatureDistance(layers)
        self.radius = check_positive("radius", radius, allow_zero=True)
        self.weight = check_positive("weight", weight, allow_zero=True)

    @contextmanager
    def watching(self, networks: Sequence[nn.Module]) -> Iterator[None]:
        """Both look inside."""
        with ExitStack() as stack:
            stack.enter_context(super().watching(networks))
            stack.enter_context(self.distance.watching(networks))
            yield

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """What both need of the clean batch."""
        return self.distance.prepare(super().prepare(target, clean), clean)

    def value(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False) -> torch.Tensor:
        beyond = (self.distance.value(logits, target, progress) - self.radius).clamp_min(0)
        cost = self.weight * beyond
        value = self.objective.value(logits, target, progress, targeted)
        return value + cost if targeted else value - cost

    def for_classifier(self) -> Objective:
        """The same around the objective that fits a classifier."""
        made = copy.copy(self)
        made.objective = self.objective.for_classifier()
        return made


class _Attention:
    """What noise outside the focus costs, and how large the generator's own attention is."""

    def __init__(self, focus: Focus, outside: float, size: float) -> None:
        self.focus, self.outside, self.size = focus, outside, size

    def __call__(
        self, bound: BoundPerturbation, made: Made, changed: torch.Tensor, label: torch.Tensor | None
    ) -> torch.Tensor:
        assert made.attention is not None
        scene = bound.scene
        focus = self.focus(shown_to_network(scene, scene.image), label)
        share = made.parameters[0] / bound.radii[0].clamp_min(torch.finfo(changed.dtype).tiny)
        outside = (share * (1 - focus)).abs().flatten(1).mean(dim=1)
        return self.outside * outside + self.size * made.attention.flatten(1).mean(dim=1)


class FSRAA(GeneratedAttack):
    """Noise from a generator that also says where: ``epsilon * tanh(G(x)) * A(x)``, with an attention that learns to
    stay on a focus.

    Example:
        >>> from monai_adversarial.data.example import example_case
        >>> from monai_adversarial.generators import FSRAA, dilated_organs
        >>> model = example_case(16)[0]
        >>> cases = [example_case(16, seed=seed)[1:] for seed in range(3)]
        >>> attack = FSRAA(15, "HU", focus=dilated_organs([3], voxels=1), channels=(4, 8), rate=1e-2)
        >>> len(attack.fit(model, cases, epochs=2)), attack(model, *cases[0]).backwards
        (2, 0)

    Args:
        epsilon, units: the L-infinity budget.
        focus: where the noise belongs, asked in training alone: ``dilated_organs(...)``, ``grad_cam_focus(...)`` or a
            function of your own.
        objective: what the generator is trained to raise; ``FeaturesWithin`` keeps the features of a layer near those
            of the clean image.
        adversarial, realism, outside, size: weights of the objective, of the discriminator's verdict, of noise outside
            the focus (mean share of the budget), and of the mean attention.
        rate: of Adam.
        options: see :class:`~monai_adversarial.generators.GeneratedAttack`.

    Raises:
        TypeError: for a focus that is no function.
        ValueError: for a negative budget or weight.

    Source: Wang et al., "Feature-space-restricted attention attack on medical deep learning systems", 2022. Its
    equations could not be read: losses and weights are a reconstruction.

    Survey entry: A18 (reconstruction).
    """

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        focus: Focus | None = None,
        objective: str | Objective = "dice",
        adversarial: float = 10.0,
        realism: float = 1.0,
        outside: float = 20.0,
        size: float = 0.1,
        rate: float = 1e-3,
        **options: Any,
    ) -> None:
        where = dilated_organs() if focus is None else focus
        if not callable(where):
            raise TypeError(f"focus must be a function such as dilated_organs(), got {type(focus).__name__}.")
        settings = Settings(
            check_positive("adversarial", adversarial, allow_zero=True),
            check_positive("realism", realism, allow_zero=True),
            rate=check_positive("rate", rate),
        )
        penalty = _Attention(
            where,
            check_positive("outside", outside, allow_zero=True),
            check_positive("size", size, allow_zero=True),
        )
        heads = (options.get("in_channels", 1),)
        super().__init__(
            AdditiveNoise(epsilon, units=units), objective, heads, settings, penalty, attention=True, **options
        )
