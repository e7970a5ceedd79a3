# SPDX-License-Identifier: Apache-2.0
"""An attack by a network that is trained once and then needs no more answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.utils import convert_to_dst_type

from monai_adversarial.attacks import Attack
from monai_adversarial.attacks.boundary import Given
from monai_adversarial.attacks.perturbations import Perturbation
from monai_adversarial.generators.feed_forward import FeedForward
from monai_adversarial.generators.training import Case, GeneratorTraining, Penalty, Settings, fit_generator
from monai_adversarial.models import AttackedModel
from monai_adversarial.networks.patch_discriminator import patch_discriminator
from monai_adversarial.networks.perturbation_generator import PerturbationGenerator
from monai_adversarial.utils.arrays import as_tensor
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_count, check_region
from monai_adversarial.utils.weights import load_weights, save_weights

__all__ = ["GeneratedAttack"]


class GeneratedAttack(Attack):
    """A perturbation whose parameters a generator gives: ``fit`` it, then call it as any attack.

    A call asks the model for scores alone: of the clean image, of what was made, and once more where the outcome is
    not the last answer. ``generate`` makes the image and asks it nothing.

    >>> from monai_adversarial.attacks import AdditiveNoise
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.generators import GeneratedAttack, Settings
    >>> model, image, label = example_case(16)
    >>> attack = GeneratedAttack(AdditiveNoise(15, units="HU"), "dice", [1], Settings(), channels=(2, 4))
    >>> history = attack.fit(model, [(image, label)], epochs=1)
    >>> result = attack(model, image, label)
    >>> result.backwards, float((result.adversarial - image).abs().max()) <= 15, len(history)
    (0, True, 1)

    Args:
        perturbation: what the generator fills in.
        objective: what it is trained to raise.
        heads: channels of each parameter tensor of the perturbation.
        settings: of the training.
        penalty: what else the generator is charged for.
        in_channels, spatial_dims, channels: of the generator; see
            :class:`~monai_adversarial.networks.PerturbationGenerator`.
        latent: normal numbers that it is told, for different outcomes of the same image.
        attention: it also says where the perturbation is.
        drop: prescribed loss of Dice when it is called; needs ``settings.drops``.
        seed: of the first weights, the order of the training and all draws.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Raises:
        TypeError, ValueError: for arguments that an attack does not take, or a generator cannot follow.
    """

    def __init__(
        self,
        perturbation: Perturbation,
        objective: Any,
        heads: Sequence[int],
        settings: Settings,
        penalty: Penalty | None = None,
        *,
        in_channels: int = 1,
        spatial_dims: int = 3,
        channels: Sequence[int] = (16, 32, 64),
        latent: int = 0,
        attention: bool = False,
        drop: float | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        for name in ("search", "steps", "random_start", "early_stop"):
            if name in options:
                raise ValueError(f"{name} is no choice of a generator, got {options[name]!r}: leave it out.")
        if drop is not None and settings.drops is None:
            raise ValueError(f"drop={drop!r} needs a generator trained for it: give settings drops=(low, high).")
        self.settings, self.penalty = settings, penalty
        check_count("latent", latent, minimum=0)
        amount = settings.drops is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(check_count("seed", seed, minimum=0))
            self.generator = PerturbationGenerator(
                heads, in_channels, spatial_dims, channels, latent, attention, amount
            )
            self.discriminator = patch_discriminator(in_channels, spatial_dims, channels[0])
        super().__init__(perturbation, objective, FeedForward(self.generator, drop), steps=1, seed=seed, **options)

    def fit(
        self,
        model: AttackedModel | Callable[..., Any],
        cases: Sequence[Case],
        epochs: int = 100,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> list[dict[str, float]]:
        """Train generator and discriminator against a model, from their first weights or from a checkpoint.

        Args:
            model: what is attacked; it stays as it is.
            cases: pairs of an image batch and its label (None: the network's own prediction), of any sizes.
            epochs: how often each case is seen in all.
            checkpoint: file that is written after each epoch, and from which a training goes on where it exists.

        Returns:
            Means of each epoch; ``objective`` is what the attacker maximizes.

        Raises:
            ValueError: for no cases, and for what an attack refuses of a case.
        """
        check_count("epochs", epochs)
        if len(cases):
            device = as_tensor("image", cases[0][0]).device
            self.generator.to(device)
            self.discriminator.to(device)
        training = GeneratorTraining(self.generator, self.discriminator, self.settings, self.penalty)
        return fit_generator(self, training, model, cases, epochs, self.seed, checkpoint)

    @torch.no_grad()
    def generate(
        self,
        model: AttackedModel | Callable[..., Any],
        image: torch.Tensor,
        *,
        region: torch.Tensor | None = None,
        spacing: Any = None,
        draw: int = 0,
    ) -> torch.Tensor:
        """The adversarial image, without a question to the model.

        Args:
            model: says how the image is read (units, intensity map, channels); its network is not called.
            image, region, spacing: see :class:`~monai_adversarial.attacks.Attack`.
            draw: number of the draw of a generator that is told normal numbers.

        Returns:
            The image in the kind and type of the clean one, inside the budget.
        """
        known = AttackedModel.wrap(model)
        given = Given.read(known, image)
        with self.scope(known, given.image) as (predictor, clean):
            inside = None if region is None else check_region(as_plain(as_tensor("region", region)), clean)
            bound = self.perturbation.bind(self._scene(predictor, clean, given, inside, spacing))
            run = self.search.begin(bound, 1)
            run.stream = draw
            parameters = run.first(bound.zeros())
            made = given.stored(clean, bound.finished(clean, parameters))
            bound.verify(clean, made, parameters)
            whole = known.whole_image(made, as_plain(given.image))
            return given.image_back(convert_to_dst_type(whole, dst=given.image)[0])

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write the generator's weights, which is all that the attack needs."""
        return save_weights(self.generator, path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read the generator's weights.

        Raises:
            FileNotFoundError, RuntimeError: for no file, or the weights of another generator.
        """
        load_weights(self.generator, path)
