# SPDX-License-Identifier: Apache-2.0
"""The loop of every attack."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from monai.utils import convert_to_dst_type
from tqdm import tqdm

from monai_adversarial.attacks.gradients import ExactGradient, GradientEstimator, ObjectiveFunction
from monai_adversarial.attacks.objectives import Objective, Progress, Target, get_objective
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, Perturbation, per_sample
from monai_adversarial.attacks.perturbed import REFERENCES, Perturbed, class_mask, moved_target, perturb_batch
from monai_adversarial.attacks.predictor import Predictor
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.attacks.search import Search, SteepestAscent
from monai_adversarial.metrics.batch_dice import hard_prediction, mean_foreground_dice
from monai_adversarial.utils.allocator import keep_freed_memory
from monai_adversarial.utils.draws import random_draw
from monai_adversarial.utils.intensity import MOST_OUTSIDE, as_intensity_map
from monai_adversarial.utils.modules import frozen
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.precision import Precision
from monai_adversarial.utils.scene import IMAGE_DOMAINS, Scene, budget_of, case_seeds, spacing_of
from monai_adversarial.utils.validation import (
    check_choice,
    check_count,
    check_fraction,
    check_image,
    check_instance,
    check_label,
    check_label_range,
    check_logits,
    check_region,
)

__all__ = ["Attack"]


class Attack:
    """Maximizes an objective over the parameters of a perturbation, per sample.

    Four parts are independent of each other: the perturbation (how the image may change and how far), the objective
    (what the attacker wants), the gradient estimator (how he learns a direction) and the search (how he moves). The
    best point of every sample is kept, the budget is verified on the finished image, and the network is left exactly as
    it was found.

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
        activation: ``"softmax"``, ``"sigmoid"``, or None: sigmoid for a network with one output channel, softmax
            otherwise.
        intensity: map from HU to the network's values: ``IntensityMap``, MONAI's ``ScaleIntensityRange`` or
            ``NormalizeIntensity`` with fixed statistics, or a mapping of ``a_min, a_max, b_min, b_max, clip``. None:
            the attacked function takes the image as it is.
        image_domain: ``"HU"``: images are in HU and ``intensity`` is applied inside the attacked function;
            ``"network"``: images are already in the network's values and ``intensity`` only converts the budget. None:
            ``"HU"`` for budgets in HU without a map, else ``"network"``.
        precision: ``"auto"`` (bfloat16 where the hardware computes in it, float32 elsewhere), ``"float32"``,
            ``"bfloat16"`` or ``"float16"``. The perturbation and the objective stay in float32.
        early_stop: stop working on samples as soon as they succeed; costs one host synchronization per step.
        success_threshold: untargeted success is a mean foreground Dice below this fraction of the clean one; targeted
            success is a mean foreground Dice with the wanted label of at least this.
        round_to_integer: return whole numbers (integer HU), inside the budget.
        seed: with the voxels of a case it fixes all random numbers.
        compile_network: run the network through ``torch.compile`` (a slow first call, faster steps).
        output: index, key or callable that picks the logits from what the network returns.
        progress: show a progress bar.

    Raises:
        TypeError: for a perturbation, an objective, a search or an estimator that is something else.
        ValueError: for an argument out of range.
    """

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
        activation: str | None = None,
        intensity: Any = None,
        image_domain: str | None = None,
        precision: str = "auto",
        early_stop: bool = False,
        success_threshold: float = 0.5,
        round_to_integer: bool = False,
        seed: int = 0,
        compile_network: bool = False,
        output: Any = None,
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
        self.activation = (
            activation if activation is None else check_choice("activation", activation, ("softmax", "sigmoid"))
        )
        self.intensity = as_intensity_map(intensity)
        if image_domain is None:
            image_domain = (
                "HU" if self.intensity is None and getattr(perturbation, "units", None) == "HU" else "network"
            )
        self.image_domain = check_choice("image_domain", image_domain, IMAGE_DOMAINS)
        self.precision = check_choice("precision", precision, ("auto", "float32", "bfloat16", "float16"))
        self.early_stop = bool(early_stop)
        self.success_threshold = check_fraction("success_threshold", success_threshold)
        self.round_to_integer = bool(round_to_integer)
        if self.round_to_integer and self.image_domain != "HU":
            raise ValueError("round_to_integer needs images in HU: pass image_domain='HU'.")
        self.seed = check_count("seed", seed, minimum=0)
        self.compile_network = bool(compile_network)
        self.output = output
        self.progress = bool(progress)

    def activation_of(self, classes: int) -> str:
        """The given activation; where there is none, sigmoid for one output channel and softmax for more."""
        return self.activation or ("sigmoid" if classes == 1 else "softmax")

    def scaled(self, budget: float = 1.0, steps: int | None = None) -> Attack:
        """The same attack with ``budget`` times its budget, and its step in proportion.

        Args:
            budget: factor; see ``Perturbation.scaled``.
            steps: number of steps, None for the same.
        """
        made = copy.copy(self)
        made.perturbation = self.perturbation.scaled(budget)
        made.steps = self.steps if steps is None else check_count("steps", steps)
        return made

    def __repr__(self) -> str:
        parts = [repr(self.perturbation), repr(self.objective), repr(self.search), repr(self.gradient)]
        options = {
            name: getattr(self, name)
            for name in (
                "steps",
                "restarts",
                "random_start",
                "targeted",
                "classes",
                "activation",
                "intensity",
                "image_domain",
                "precision",
                "early_stop",
                "success_threshold",
                "round_to_integer",
                "seed",
            )
        }
        return f"{type(self).__name__}({', '.join(parts + [f'{k}={v!r}' for k, v in options.items()])})"

    def __call__(
        self,
        predict: Callable[..., Any],
        image: torch.Tensor,
        label: torch.Tensor | None = None,
        *,
        inferer: Callable[..., Any] | None = None,
        region: torch.Tensor | None = None,
        objective_region: torch.Tensor | None = None,
        spacing: Any = None,
        start: Parameters | None = None,
    ) -> AttackResult:
        """Attack a batch.

        Args:
            predict: network (or any differentiable callable) from (batch, channel, spatial...) to logits (batch, class,
                spatial...).
            image: clean batch, float32 or float64, plain tensor or ``MetaTensor``.
            label: class map (batch, 1, spatial...) or one-hot (batch, class, spatial...); None: the network's own clean
                prediction.
            inferer: MONAI inferer, for example ``SlidingWindowInferer``; gradients go through it exactly, in the memory
                of one window.
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
        with self.scope(predict, image, inferer) as (predictor, clean):
            scene = self._scene(clean, image, region, spacing)
            run = _Run(self, predictor, scene, None if label is None else _plain(label), objective_region, start)
            return run.finish(image, label)

    def perturb(
        self,
        predict: Callable[..., Any],
        image: torch.Tensor,
        label: torch.Tensor | None = None,
        *,
        inferer: Callable[..., Any] | None = None,
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
            predict, image, label, inferer, region, spacing: see ``__call__``.
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
        with self.scope(predict, image, inferer) as (predictor, clean):
            scene = replace(
                self._scene(clean, image, region, spacing, self.random_start), budget=budget_of(clean, budget)
            )
            plain_label = None if label is None else _plain(label).to(clean.device)
            made = perturb_batch(self, predictor, scene, image, plain_label, reference, probabilities, start, stream)
            if label is not None:
                made.label = convert_to_dst_type(made.label, dst=label)[0] if made.bound.geometric else label
            return made

    @contextmanager
    def scope(
        self, predict: Callable[..., Any], image: torch.Tensor, inferer: Callable[..., Any] | None
    ) -> Iterator[tuple[Predictor, torch.Tensor]]:
        """The attacked function with its weights frozen, and the clean batch; all is as before afterwards."""
        device_type = image.device.type
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device_type, enabled=False),
            torch.random.fork_rng(devices=[image.device] if device_type == "cuda" else []),
            keep_freed_memory(image.device),
        ):
            clean = _plain(image)
            predictor = Predictor(
                predict,
                image,
                inferer=inferer,
                intensity=self.intensity if self.image_domain == "HU" else None,
                precision=Precision(self.precision, clean, fast_kernels=not self.compile_network),
                output=self.output,
                compile_network=self.compile_network,
            )
            with frozen(predictor.networks):
                yield predictor, clean

    def _scene(
        self,
        clean: torch.Tensor,
        image: torch.Tensor,
        region: torch.Tensor | None,
        spacing: Any,
        needs_seeds: bool = True,
    ) -> Scene:
        if self.image_domain == "HU" and float(clean.abs().max()) <= 10.0:
            raise ValueError(
                f"image_domain is 'HU' but the image's values lie within {float(clean.min()):.3g} to "
                f"{float(clean.max()):.3g}: it looks "
                "already scaled; pass intensity= (the map that scaled it) and image_domain='network'."
            )
        self._check_scale(clean)
        return Scene(
            image=clean,
            # Seeds wait for the device and read all voxels.
            seeds=case_seeds(clean, self.seed) if needs_seeds else (self.seed,) * clean.shape[0],
            spacing=spacing_of(image, spacing),
            region=None if region is None else check_region(_plain(region), clean),
            intensity=self.intensity,
            image_domain=self.image_domain,
        )

    def _check_scale(self, clean: torch.Tensor) -> None:
        """A map that did not make this image freezes its voxels, and a budget in the wrong units swamps it: both would
        pass for a result."""
        if self.image_domain == "network" and self.intensity is not None:
            outside = self.intensity.fraction_outside(clean)
            if outside > MOST_OUTSIDE:
                raise ValueError(
                    f"intensity maps to {self.intensity.low:g} to {self.intensity.high:g}, but {outside:.0%} of the "
                    f"image's voxels lie far outside ({float(clean.min()):.3g} to {float(clean.max()):.3g}): it is not "
                    "the map that scaled this image."
                )
        epsilon, units = getattr(self.perturbation, "epsilon", None), getattr(self.perturbation, "units", None)
        if units == "network" and epsilon is not None and getattr(self.perturbation, "norm", None) == "linf":
            span = float(clean.max() - clean.min())
            if epsilon > span > 0:
                warnings.warn(
                    f"epsilon is {epsilon:g} in the network's units, more than the whole range of the image "
                    f"({span:.3g}): pass units='HU' and intensity= if it is meant in HU.",
                    stacklevel=2,
                )


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Without metadata (which costs milliseconds per step), graph and inference mode (whose tensors cannot be
    differentiated)."""
    plain = as_plain(tensor)
    return plain.clone() if plain.is_inference() else plain.detach()


def _check_start(start: Parameters, bound: BoundPerturbation) -> Parameters:
    zeros = bound.zeros()
    given = [tuple(parameter.shape) for parameter in start]
    expected = [tuple(parameter.shape) for parameter in zeros]
    if given != expected:
        raise ValueError(f"start must hold parameters of shapes {expected} as this perturbation has, got {given}.")
    return tuple(parameter.detach().to(zero) for parameter, zero in zip(start, zeros, strict=True))


class _Run:
    """One attack on one batch."""

    def __init__(
        self,
        attack: Attack,
        predictor: Predictor,
        scene: Scene,
        label: torch.Tensor | None,
        objective_region: torch.Tensor | None,
        start: Parameters | None = None,
    ) -> None:
        self.attack, self.predictor, self.scene = attack, predictor, scene
        self.bound = attack.perturbation.bind(scene)
        self.start = None if start is None else _check_start(start, self.bound)
        self.backwards = self.gradient_forwards = 0
        with torch.no_grad():
            logits = predictor(scene.image)
        check_logits(logits, scene.image)
        if not bool(torch.isfinite(logits).all()):
            raise ValueError(
                "the network returned NaN or infinite logits for the clean image: check its weights and the "
                "intensity map."
            )
        self.network_classes = int(logits.shape[1])
        self.activation = attack.activation_of(self.network_classes)
        if label is None and attack.targeted:
            raise ValueError("a targeted attack needs label=, the segmentation that the attacker wants to see.")
        if label is not None:
            check_label_range(label, self.network_classes)
        prediction = hard_prediction(logits, self.activation)
        self.label = prediction if label is None else label.to(scene.image.device)
        weight = None
        if objective_region is not None:
            weight = check_region(_plain(objective_region), scene.image, "objective_region")[:, 0].to(scene.image.dtype)
        self.target = Target.from_label(
            self.label,
            self.network_classes,
            self.activation,
            weight=weight,
            class_mask=class_mask(attack.classes, self.network_classes, self.label.device),
        )
        self.clean_dice = self._dice(prediction, self.label)
        self.parameters: Parameters = self.bound.zeros()
        self.objective = torch.full_like(self.clean_dice, -torch.inf)
        self.solved = torch.zeros(scene.batch, dtype=torch.bool, device=scene.image.device)
        self.zero_fractions: list[torch.Tensor] = []
        self.history: list[torch.Tensor] = []
        self._search()

    def _dice(self, prediction: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return mean_foreground_dice(prediction, reference, self.network_classes, self.activation)

    def _is_success(self, dice: torch.Tensor, clean_dice: torch.Tensor) -> torch.Tensor:
        if self.attack.targeted:
            return dice >= self.attack.success_threshold
        return dice < self.attack.success_threshold * clean_dice

    def _objective_function(
        self, bound: BoundPerturbation, image: torch.Tensor, target: Target, step: int
    ) -> ObjectiveFunction:
        attack = self.attack
        sign = -1.0 if attack.targeted else 1.0

        def function(parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            logits = self.predictor(bound.apply(image, parameters))
            moved = target
            if not attack.targeted:  # who wants a segmentation wants it wherever the anatomy went
                moved = moved_target(bound, target, parameters, self.network_classes, self.scene.image.dtype)
            progress = Progress(step, attack.steps)
            values, ranks = attack.objective.value_and_rank(logits, moved, progress, attack.targeted)
            return sign * values, sign * ranks, logits

        return function

    def _search(self) -> None:
        attack = self.attack
        bar = tqdm(
            total=attack.restarts * attack.steps, disable=not attack.progress, desc=type(attack).__name__, leave=False
        )
        with bar:
            for restart in range(attack.restarts):
                # The host learns which samples are left only when early stopping asks for it.
                left = list(range(self.scene.batch))
                if attack.early_stop:
                    left = [i for i, solved in enumerate(self.solved.tolist()) if not solved]
                    if not left:
                        break
                self.predictor.use_samples(left)
                self._restart(restart, left, bar)
        self.predictor.use_samples(range(self.scene.batch))

    def _restart(self, restart: int, left: list[int], bar: tqdm) -> None:
        attack = self.attack
        everyone = len(left) == self.scene.batch
        scene = self.scene if everyone else self.scene.select(left)
        bound = self.bound if everyone else attack.perturbation.bind(scene)
        target = self.target if everyone else self.target.select(torch.as_tensor(left, device=scene.image.device))
        random = attack.random_start or restart > 0
        if self.start is not None and restart == 0:
            with torch.no_grad():
                parameters = bound.project(self.start)
        else:
            parameters = bound.random(scene.generators(restart)) if random else bound.zeros()
        parameters = tuple(parameter.detach() for parameter in parameters)
        run = attack.search.begin(bound, attack.steps)
        for step in range(attack.steps):
            function = self._objective_function(bound, scene.image, target, step)
            with random_draw(restart, step):
                found = attack.gradient.evaluate(function, parameters, self.predictor.precision.loss_scale)
            self.gradient_forwards += found.forwards * scene.batch
            self.backwards += found.backwards * scene.batch
            self._keep_best(left, parameters, found.ranks)
            self.zero_fractions.append(self._spread(left, bound.frozen_fraction(found.gradients)))
            with torch.no_grad():
                parameters = run.advance(parameters, found.gradients, found.ranks, step)
            bar.update()
            if attack.early_stop:
                keep = self._unsolved(bound, found.logits, parameters, left)
                if not keep:
                    return
                if len(keep) < len(left):
                    where = torch.as_tensor(keep, device=scene.image.device)
                    left = [left[i] for i in keep]
                    self.predictor.use_samples(left)
                    scene = scene.select(keep)
                    bound = attack.perturbation.bind(scene)
                    target = target.select(where)
                    parameters = tuple(p.index_select(0, where) for p in parameters)
                    run.select(where, bound)
        function = self._objective_function(bound, scene.image, target, attack.steps)
        with random_draw(restart, attack.steps):
            ranks = attack.gradient.rank(function, parameters)
        self._keep_best(left, parameters, ranks)

    def _unsolved(
        self, bound: BoundPerturbation, logits: torch.Tensor, parameters: Parameters, left: list[int]
    ) -> list[int]:
        """Positions in ``left`` that have not succeeded at the point that was just evaluated."""
        where = torch.as_tensor(left, device=logits.device)
        best = tuple(p.index_select(0, where) for p in self.parameters)
        with torch.no_grad():
            label = self.label.index_select(0, where)
            moved = label if self.attack.targeted else bound.move_label(label, best)
            dice = self._dice(hard_prediction(logits, self.activation), moved)
            # The logits belong to the point of this step: it counts where that point is the best so far.
            success = self._is_success(dice, self.clean_dice[where]) & self.latest_is_best
        self.solved[where] |= success
        return [i for i, solved in enumerate(success.tolist()) if not solved]

    def _keep_best(self, left: list[int], parameters: Parameters, values: torch.Tensor) -> None:
        values = values.detach().to(self.objective.dtype)
        if len(left) == self.scene.batch:
            better = values > self.objective
            self.objective = torch.where(better, values, self.objective)
            self.parameters = tuple(
                torch.where(per_sample(better, new), new, old)
                for new, old in zip(parameters, self.parameters, strict=True)
            )
        else:
            where = torch.as_tensor(left, device=values.device)
            old_values = self.objective[where]
            better = values > old_values
            self.objective = self.objective.index_copy(0, where, torch.where(better, values, old_values))
            self.parameters = tuple(
                old.index_copy(0, where, torch.where(per_sample(better, new), new, old.index_select(0, where)))
                for new, old in zip(parameters, self.parameters, strict=True)
            )
        self.latest_is_best = better
        self.history.append(self._spread(left, values))

    def _spread(self, left: list[int], values: torch.Tensor) -> torch.Tensor:
        """Values of some samples as a row for the whole batch, NaN elsewhere."""
        if len(left) == self.scene.batch:
            return values.detach()
        row = torch.full((self.scene.batch,), torch.nan, dtype=values.dtype, device=values.device)
        row[torch.as_tensor(left, device=values.device)] = values.detach()
        return row

    def finish(self, image: torch.Tensor, label: torch.Tensor | None) -> AttackResult:
        """Build the finished image, verify its budget and score it."""
        attack, clean = self.attack, self.scene.image
        lost = torch.isneginf(self.objective).nonzero().flatten().tolist()
        if lost:
            raise RuntimeError(
                f"the objective was NaN at every step for sample {lost[0]}: check the network under "
                f"{self.predictor.precision}."
            )
        with torch.no_grad():
            adversarial = self.bound.apply(clean, self.parameters)
            if attack.round_to_integer:
                adversarial = self.bound.quantize(clean, adversarial, self.parameters)
            budgets = self.bound.verify(clean, adversarial, self.parameters, 0.5 if attack.round_to_integer else 0.0)
            moved = self.label if attack.targeted else self.bound.move_label(self.label, self.parameters)
            dice = self._dice(hard_prediction(self.predictor(adversarial), self.activation), moved)
        return AttackResult(
            adversarial=convert_to_dst_type(adversarial, dst=image)[0],
            label=moved if label is None else convert_to_dst_type(moved, dst=label)[0],
            parameters=self.parameters,
            objective=self.objective,
            objective_history=torch.stack(self.history),
            success=self._is_success(dice, self.clean_dice),
            clean_dice=self.clean_dice,
            adversarial_dice=dice,
            budgets=budgets,
            forwards=self.predictor.forwards,
            backwards=self.backwards,
            queries=self.predictor.forwards - self.gradient_forwards,
            zero_gradient_fraction=torch.stack(self.zero_fractions).nanmean(dim=0),
            reference_is_prediction=label is None,
            image=clean,
            bound=self.bound,
            clean_label=self.label,
        )
