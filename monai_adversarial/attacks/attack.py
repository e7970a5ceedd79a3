# SPDX-License-Identifier: Apache-2.0
"""The loop of every attack."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from monai.utils import convert_to_dst_type

from monai_adversarial.attacks.gradients import ExactGradient, GradientEstimator
from monai_adversarial.attacks.objectives import Objective, get_objective
from monai_adversarial.attacks.perturbations.base import Parameters, Perturbation
from monai_adversarial.attacks.perturbed import REFERENCES, Perturbed, perturb_batch
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.attacks.scored_run import ScoredRun
from monai_adversarial.attacks.search import Search, SteepestAscent
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.doubts import doubt, warn_once
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils.allocator import keep_freed_memory
from monai_adversarial.utils.intensity import MOST_OUTSIDE
from monai_adversarial.utils.modules import frozen
from monai_adversarial.utils.plain import detached
from monai_adversarial.utils.scene import Scene, budget_of, case_seeds, spacing_of
from monai_adversarial.utils.validation import (
    check_choice,
    check_count,
    check_fraction,
    check_image,
    check_instance,
    check_label,
    check_region,
)

__all__ = ["Attack"]


class Attack:
    """Maximizes an objective over the parameters of a perturbation, per sample.

    Four parts are independent of each other: the perturbation (how the image may change and how far), the objective
    (what the attacker wants), the gradient estimator (how it learns a direction) and the search (how it moves). The
    best point of every sample is kept, the budget is verified on the finished image, and the network is left exactly as
    it was found. What is attacked is an ``AttackedModel``.

    Args:
        perturbation: how the image may change.
        objective: what is maximized: a name (see ``get_objective``) or an ``Objective``.
        search: how to move; None for steepest ascent in steps of a quarter of the budget.
        gradient: how to learn a direction; None for exact gradients.
        steps: gradient evaluations per restart.
        restarts: number of runs; the first starts at the clean image when ``random_start`` is False.
        random_start: start inside the budget at random instead of at the clean image.
        targeted: the label is what the attacker wants the network to say.
        classes: the classes that the objective counts; None for all.
        early_stop: stop working on samples as soon as they succeed; costs one host synchronization per step.
        success_threshold: untargeted success is a mean foreground Dice below this fraction of the clean one; targeted
            success is a mean foreground Dice with the wanted label of at least this.
        seed: with the voxels of a case it fixes all random numbers.
        progress: show a progress bar.

    Raises:
        TypeError: for a perturbation, an objective, a search or an estimator that is something else.
        ValueError: for an argument out of range.
    """

    _given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    _scalings: tuple[tuple[float, int], ...] = ()

    def __new__(cls, *args: Any, **options: Any) -> Attack:
        """Remember what the attack was made with: ``repr`` is a call that makes it again."""
        made = super().__new__(cls)
        made._given = (args, options)
        return made

    def __init__(
        self,
        perturbation: Perturbation,
        objective: str | Objective = "dice_ce",
        search: Search | None = None,
        gradient: GradientEstimator | None = None,
        *,
        steps: int = 10,
        restarts: int = 1,
        random_start: bool = True,
        targeted: bool = False,
        classes: Sequence[int] | None = None,
        early_stop: bool = False,
        success_threshold: float = 0.5,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        if not isinstance(perturbation, Perturbation):
            raise TypeError(f"perturbation must be a Perturbation, got {type(perturbation).__name__}.")
        self.perturbation = perturbation
        self.objective = get_objective(objective)
        self.search: Search = (
            SteepestAscent() if search is None else check_instance("search", search, Search, "AutoPGD()")
        )
        self.gradient: GradientEstimator = (
            ExactGradient()
            if gradient is None
            else check_instance("gradient", gradient, GradientEstimator, "BackwardPassSubstitute()")
        )
        self.steps = check_count("steps", steps)
        self.restarts = check_count("restarts", restarts)
        self.random_start = bool(random_start)
        self.targeted = bool(targeted)
        self.classes = None if classes is None else tuple(check_count("classes", c, minimum=0) for c in classes)
        self.early_stop = bool(early_stop)
        self.success_threshold = check_fraction("success_threshold", success_threshold)
        self.seed = check_count("seed", seed, minimum=0)
        self.progress = bool(progress)

    def scaled(self, budget: float = 1.0, steps: int | None = None) -> Attack:
        """The same attack with ``budget`` times its budget, and its step in proportion.

        Args:
            budget: factor; see ``Perturbation.scaled``.
            steps: number of steps, None for the same.
        """
        made = copy.copy(self)
        made.perturbation = self.perturbation.scaled(budget)
        made.steps = self.steps if steps is None else check_count("steps", steps)
        made._scalings = (*self._scalings, (float(budget), made.steps))
        return made

    def __repr__(self) -> str:
        args, options = self._given
        shown = [repr(value) for value in args] + [f"{name}={value!r}" for name, value in options.items()]
        changed = "".join(f".scaled({budget:g}, {steps})" for budget, steps in self._scalings)
        return f"{type(self).__name__}({', '.join(shown)}){changed}"

    def __call__(
        self,
        model: AttackedModel | Callable[..., Any],
        image: torch.Tensor,
        label: torch.Tensor | None = None,
        *,
        region: torch.Tensor | None = None,
        objective_region: torch.Tensor | None = None,
        spacing: Any = None,
        start: Parameters | None = None,
    ) -> AttackResult:
        """Attack a batch.

        Args:
            model: an ``AttackedModel``, or a bare network (any differentiable callable) from (batch, channel,
                spatial...) to logits (batch, class, spatial...), which is wrapped with the defaults of one.
            image: clean batch, float32 or float64, plain tensor or ``MetaTensor``.
            label: class map (batch, 1, spatial...) or one-hot (batch, class, spatial...); None: the network's own clean
                prediction.
            region: boolean (batch, 1, spatial...), the voxels that may change (perturbations of intensity).
            objective_region: boolean (batch, 1, spatial...), the voxels at which the objective counts.
            spacing: mm along each axis, instead of the image's affine.
            start: parameters at which the first restart begins, projected into the budget: those of an earlier result
                (``AttackResult.parameters``) let an attack go on where another one stopped.

        Raises:
            TypeError, ValueError: for input that does not fit, in one sentence.
            BudgetError: if the finished image is outside its budget.
        """
        check_image(image)
        if label is not None:
            check_label(label, image)
        with self.scope(model, image) as (predictor, clean):
            scene = self._scene(predictor, clean, image, region, spacing)
            plain_label = None if label is None else detached(label)
            return ScoredRun(self, predictor, scene, plain_label, objective_region, start).finish(image, label)

    def perturb(
        self,
        model: AttackedModel | Callable[..., Any],
        image: torch.Tensor,
        label: torch.Tensor | None = None,
        *,
        region: torch.Tensor | None = None,
        spacing: Any = None,
        start: Parameters | None = None,
        reference: str = "label",
        probabilities: torch.Tensor | None = None,
        stream: int = 0,
        budget: torch.Tensor | None = None,
    ) -> Perturbed:
        """Attack a batch for training: one restart, its last point, ``steps`` forward and backward passes and no more.

        Nothing is scored and no budget is measured afterwards (the projection keeps it); what an evaluation needs is in
        ``__call__``. ``restarts``, ``early_stop`` and ``round_to_integer`` are not used.

        Args:
            model, image, label, region, spacing: see ``__call__``.
            start: parameters to begin at, projected into the budget, instead of the random start or the clean image.
            reference: ``"label"``; ``"prediction"``, the network's class map of the clean image; or
                ``"probabilities"``, its soft answer, so that cross-entropy becomes the divergence from it that TRADES
                maximizes. The last two cost one more forward pass.
            probabilities: soft reference (batch, class, spatial...) from elsewhere, for example a teacher; replaces
                ``reference``.
            stream: number of the random draw, for example the training iteration.
            budget: factor by which each sample's budget (and its step) is multiplied, (batch,), finite and >= 0; None
                for 1. For additive noise only.

        Raises:
            TypeError, ValueError: for input that does not fit, in one sentence.
            NotImplementedError: for ``budget`` with a perturbation that is not additive noise.
        """
        check_image(image)
        check_choice("reference", reference, REFERENCES)
        if label is not None:
            check_label(label, image)
        elif probabilities is None and reference == "label":
            raise ValueError("reference='label' needs label=; pass it, or reference='prediction' or 'probabilities'.")
        with self.scope(model, image) as (predictor, clean):
            scene = replace(
                self._scene(
                    predictor,
                    clean,
                    image,
                    region,
                    spacing,
                    needs_seeds=self.random_start or not self.search.uses_gradients,
                    training=True,
                ),
                budget=budget_of(clean, budget),
            )
            plain_label = None if label is None else detached(label).to(clean.device)
            made = perturb_batch(self, predictor, scene, image, plain_label, reference, probabilities, start, stream)
            if label is not None:
                made.label = convert_to_dst_type(made.label, dst=label)[0] if made.bound.geometric else label
            return made

    @contextmanager
    def scope(
        self, model: AttackedModel | Callable[..., Any], image: torch.Tensor
    ) -> Iterator[tuple[Predictor, torch.Tensor]]:
        """The attacked function with its weights frozen, and the image channels of the clean batch; all is as before
        afterwards."""
        device_type = image.device.type
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device_type, enabled=False),
            torch.random.fork_rng(devices=[image.device] if device_type == "cuda" else []),
            keep_freed_memory(image.device),
        ):
            known = AttackedModel.wrap(model)
            predictor = Predictor(known, image, known.units_for(getattr(self.perturbation, "units", None)))
            with frozen(predictor.networks):
                yield predictor, known.image_part(detached(image))

    def _scene(
        self,
        predictor: Predictor,
        clean: torch.Tensor,
        image: torch.Tensor,
        region: torch.Tensor | None,
        spacing: Any,
        needs_seeds: bool = True,
        training: bool = False,
    ) -> Scene:
        # A constant image, such as a crop of padding, says nothing about its units.
        low, high = (float(edge) for edge in torch.aminmax(clean)) if predictor.units == "HU" else (0.0, 0.0)
        if max(-low, high) <= 10.0 and low < high:
            doubt(
                predictor.model.network,
                "HU",
                f"image_units is 'HU' but the image's values lie within {low:.3g} to {high:.3g}: it looks "
                "already scaled; give the AttackedModel intensity= (the map that scaled it) and image_units='network'.",
                training,
            )
        scene = Scene(
            image=clean,
            # Seeds wait for the device and read all voxels.
            seeds=case_seeds(clean, self.seed) if needs_seeds else (self.seed,) * clean.shape[0],
            spacing=spacing_of(image, spacing),
            region=None if region is None else check_region(detached(region), clean),
            intensity=predictor.model.intensity,
            image_units=predictor.units,
        )
        self._check_scale(scene, predictor.model, training)
        return scene

    def _check_scale(self, scene: Scene, model: AttackedModel, training: bool) -> None:
        """A map that did not make this image freezes its voxels, and a budget in the wrong units swamps it: both would
        pass for a result."""
        clean, intensity = scene.image, scene.intensity
        if scene.image_units == "network" and intensity is not None:
            outside = intensity.fraction_outside(clean)
            if outside > MOST_OUTSIDE:
                sentence = (
                    f"intensity maps to {intensity.low:g} to {intensity.high:g}, but {outside:.0%} of the "
                    f"image's voxels lie far outside ({float(clean.min()):.3g} to {float(clean.max()):.3g}): it is not "
                    "the map that scaled this image"
                )
                if training:
                    sentence += ", or an augmentation came after it: their voxels are moved too, as far as the budget"
                doubt(model.network, "intensity", f"{sentence}.", training)
        epsilon, units = getattr(self.perturbation, "epsilon", None), getattr(self.perturbation, "units", None)
        if units == "network" and epsilon is not None and getattr(self.perturbation, "norm", None) == "linf":
            span = float(clean.max() - clean.min())
            if epsilon > span > 0:
                warn_once(
                    model.network,
                    "epsilon",
                    f"epsilon is {epsilon:g} in the network's units, more than the whole range of the image "
                    f"({span:.3g}): pass units='HU' and intensity= if it is meant in HU.",
                )
