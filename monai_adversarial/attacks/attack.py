# SPDX-License-Identifier: Apache-2.0
"""The loop of every attack."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch

from monai_adversarial.attacks.boundary import Given, axes_explained
from monai_adversarial.attacks.gradients import GradientEstimator, WindowwiseGradient
from monai_adversarial.attacks.objectives import Objective, get_objective
from monai_adversarial.attacks.perturbations.base import Parameters, Perturbation
from monai_adversarial.attacks.perturbed import REFERENCES, Perturbed, perturb_batch
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.attacks.scale_checks import check_reach, check_scale
from monai_adversarial.attacks.scored_run import ScoredRun
from monai_adversarial.attacks.search import Search, SteepestAscent
from monai_adversarial.attacks.search.extremes_first import looking_first
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.first_batch import check_told_spacing
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.models.surrogates import following
from monai_adversarial.utils.allocator import keep_freed_memory
from monai_adversarial.utils.arrays import as_given, as_tensor
from monai_adversarial.utils.calls import ShownAsCall, shown
from monai_adversarial.utils.interrupts import uninterrupted_edges
from monai_adversarial.utils.modules import held_still, modules_of, unwrap
from monai_adversarial.utils.plain import detached
from monai_adversarial.utils.scene import Scene, affine_of, budget_of, case_seeds, spacing_of
from monai_adversarial.utils.validation import (
    check_choice,
    check_count,
    check_fraction,
    check_instance,
    check_region,
)

__all__ = ["Attack"]


class Attack(ShownAsCall):
    """Maximizes an objective over the parameters of a perturbation, per sample.

    Four parts are independent of each other: the perturbation (how the image may change and how far), the objective
    (what the attacker wants), the gradient estimator (how it learns a direction) and the search (how it moves). The
    best point of every sample is kept, the budget is verified on the finished image, and the network is left exactly as
    it was found. What is attacked is an ``AttackedModel``.

    >>> from monai_adversarial.attacks import AdditiveNoise, Attack, AutoPGD, Margin
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> attack = Attack(AdditiveNoise(16, units="HU"), Margin(), search=AutoPGD(), steps=5)
    >>> result = attack(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice), float((result.adversarial - image).abs().max())
    (True, 16.0)

    Args:
        perturbation: how the image may change.
        objective: what is maximized: a name (see ``get_objective``) or an ``Objective``.
        search: how to move; None for steepest ascent in steps of a quarter of the budget, behind a look at the
            extremes of perturbations that have some (``ExtremesFirst``).
        gradient: how to learn a direction; None for exact gradients, window by window where the network runs in windows
            (``WindowwiseGradient``).
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

    _warned_of_nan = False
    _blind_batches = 0
    #: an attack whose outcome counts; recipes that report more than the best point have their own
    _run_type: type[ScoredRun] = ScoredRun
    #: arguments of ``Attack`` that a recipe sets itself and does not take
    fixed_arguments: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Refuse what a recipe sets itself, before Python finds two values of it somewhere inside."""
        for name in cls.fixed_arguments:
            if name in options and name not in inspect.signature(cls.__init__).parameters:
                raise TypeError(
                    f"{name} is set by {cls.__name__} itself, got {shown(options[name])}: leave it out, or join parts "
                    "of your own with Attack(perturbation, objective, search, gradient, steps=...)."
                )
        return super().__new__(cls, *args, **options)

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
            looking_first(perturbation, SteepestAscent())
            if search is None
            else check_instance("search", search, Search, "AutoPGD()")
        )
        self.gradient: GradientEstimator = (
            WindowwiseGradient()
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
        if self.early_stop and (self.search.uses_decisions or self.gradient.surrogates):
            raise ValueError(
                "early_stop=True ends at the first success, which a search by decisions begins with and a search that "
                "follows surrogates does not see: leave it out."
            )

    @property
    def by_queries(self) -> bool:
        """Whether nothing is differentiated: the model is asked about finished images, as it is deployed."""
        return not self.search.uses_gradients or self.gradient.by_queries

    def for_classifier(self) -> Attack:
        """The same attack with the objective that fits a network of one answer per image; itself where its own does.

        Raises:
            TypeError: for an objective of segmentations alone.
        """
        objective = self.objective.for_classifier()
        if objective is self.objective:
            return self
        made = copy.copy(self)
        made.objective = objective
        return made

    def scaled(self, budget: float = 1.0, steps: int | None = None) -> Attack:
        """The same attack with ``budget`` times its budget, and its step in proportion.

        Args:
            budget: factor; see ``Perturbation.scaled``.
            steps: number of steps, None for the same.
        """
        made = copy.copy(self)
        made.perturbation = self.perturbation.scaled(budget)
        made.steps = self.steps if steps is None else check_count("steps", steps)
        made._afterwards = (*self._afterwards, f".scaled({shown(float(budget))}, {made.steps})")
        return made

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
        truth: torch.Tensor | None = None,
    ) -> AttackResult:
        """Attack a batch.

        Args:
            model: an ``AttackedModel``, or a bare network (any differentiable callable) from (batch, channel,
                spatial...) to logits (batch, class, spatial...), which is wrapped with the defaults of one.
            image: clean batch (batch, channel, spatial...): tensor, ``MetaTensor`` or NumPy array of any real type. It
                is converted once to the type of the network's weights, and the adversarial image comes back as the
                clean one was given. A float64 image attacks a float32 network in float32, an image of whole numbers
                comes back in whole numbers, inside the budget and the range of its type.
            label: class map (batch, 1, spatial...) or one-hot (batch, class, spatial...) of any type; None: the
                network's own clean prediction.
            region: boolean (batch, 1, spatial...), the voxels that may change (perturbations of intensity).
            objective_region: boolean (batch, 1, spatial...), the voxels at which the objective counts.
            spacing: mm along each axis, instead of the image's affine.
            start: parameters at which the first restart begins, projected into the budget: those of an earlier result
                (``AttackResult.parameters``) let an attack go on where another one stopped. Steps that fall begin large
                again: the start is kept where they find nothing better, and constant ones search around it.
            truth: the true segmentation, as ``label``, for a targeted attack only: ``AttackResult.truth_dice`` is
                measured with it. None: with the network's own clean prediction.

        Raises:
            TypeError, ValueError: for input that does not fit, in one sentence.
            BudgetError: if the finished image is outside its budget.
        """
        if truth is not None and not self.targeted:
            raise ValueError("truth= is for targeted attacks: label= is the true segmentation of all others.")
        known = AttackedModel.wrap(model)
        given = Given.read(known, image, label, by_queries=self.by_queries)
        true = None if truth is None else Given.read(known, image, truth).label
        with axes_explained(known, given.image), self.scope(known, given.image) as (predictor, clean):
            scene = self._scene(predictor, clean, given, _mask("region", region), spacing)
            if start is None:  # an attack that goes on has its way behind it
                check_reach(self.perturbation, self.search, self.steps)
            plain_label = None if given.label is None else detached(given.label)
            counted = _mask("objective_region", objective_region)
            plain_truth = None if true is None else detached(true)
            run = self._run_type(self, predictor, scene, plain_label, counted, given.stored, start, plain_truth)
            result = run.finish(given.image, given.label)
        result.adversarial = given.image_back(result.adversarial)
        if label is not None:
            result.label = given.label_back(result.label)
        return result

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
        ``__call__``. Samples whose objective was NaN come back clean, with one warning. ``restarts``, ``early_stop``
        and the model's ``round_to_integer`` and ``stored_grid`` are not used.

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
        check_choice("reference", reference, REFERENCES)
        if label is None and probabilities is None and reference == "label":
            raise ValueError("reference='label' needs label=; pass it, or reference='prediction' or 'probabilities'.")
        known = AttackedModel.wrap(model)
        given = Given.read(known, image, label, by_queries=self.by_queries)
        ready = given.image
        with axes_explained(known, ready), self.scope(known, ready) as (predictor, clean):
            scene = replace(
                self._scene(predictor, clean, given, _mask("region", region), spacing, training=True),
                budget=budget_of(clean, budget),
            )
            plain_label = None if given.label is None else detached(given.label).to(clean.device)
            made = perturb_batch(self, predictor, scene, ready, plain_label, reference, probabilities, start, stream)
            if given.stored.whole_numbers:
                part = made.bound.finished(clean, made.parameters)
                made.adversarial = known.whole_image(given.stored(clean, part), detached(ready))
        made.adversarial = given.image_back(made.adversarial)
        if label is not None:
            made.label = as_given(made.label, label) if made.label is not None and made.bound.geometric else label
        return made

    @uninterrupted_edges
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
            # The global generators belong to all threads: setting them back would repeat the numbers of a training.
            torch.random.fork_rng(
                devices=[image.device] if device_type == "cuda" else [],
                enabled=threading.current_thread() is threading.main_thread(),
            ),
            keep_freed_memory(image.device),
        ):
            known = AttackedModel.wrap(model)
            with held_still(unwrap(known.network)) as network:
                units = known.units_for(getattr(self.perturbation, "units", None))
                predictor, clean = Predictor(known, image, units, network), known.image_part(detached(image))
                watching, surrogates = self.objective.watching(modules_of(network)), self.gradient.surrogates
                with watching, following(predictor, surrogates, image, clean) if surrogates else nullcontext():
                    yield predictor, clean

    def _scene(
        self,
        predictor: Predictor,
        clean: torch.Tensor,
        given: Given,
        region: torch.Tensor | None,
        spacing: Any,
        training: bool = False,
    ) -> Scene:
        check_told_spacing(predictor.model, given.image, spacing)
        # Seeds wait for the device and read all voxels: training that draws nothing needs none.
        draws = not training or self.random_start or self.by_queries
        scene = Scene(
            image=clean,
            seeds=case_seeds(clean, self.seed) if draws else (self.seed,) * clean.shape[0],
            spacing=spacing_of(given.image, spacing, required=False),
            region=None if region is None else check_region(detached(region), clean),
            intensity=predictor.intensity,
            image_units=predictor.units,
            intensity_doubt=predictor.intensity_doubt,
            stored=predictor.model.stored or given.stored.grid,
            affine=affine_of(given.image, spacing),
        )
        if scene.stored is not None and not scene.stored.holds(clean):
            raise ValueError(
                f"stored_grid holds {scene.stored.low} to {scene.stored.high}, but the image's values lie within "
                f"{float(clean.min()):.6g} to {float(clean.max()):.6g}: it is not the grid of the image's file."
            )
        check_scale(scene, self.perturbation, training, predictor.model.network, predictor.model.was_read)
        return scene


def _mask(name: str, region: Any) -> torch.Tensor | None:
    return None if region is None else as_tensor(name, region)
