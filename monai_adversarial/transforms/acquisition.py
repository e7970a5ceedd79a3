# SPDX-License-Identifier: Apache-2.0
"""Random and adversarial acquisitions as transforms."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, ensure_tuple

from monai_adversarial.attacks import (
    Attack,
    CTAcquisitionAttack,
    MRIAcquisitionAttack,
    Perturbation,
    UltrasoundReconstruction,
    UltrasoundReconstructionAttack,
)
from monai_adversarial.attacks.perturbations import BoundPerturbation, Parameters
from monai_adversarial.models import AttackedModel
from monai_adversarial.transforms.array import AdversarialTransform, as_batch, as_image
from monai_adversarial.transforms.dictionary import AdversarialTransformd
from monai_adversarial.utils.arrays import StoredAs, as_given, computable
from monai_adversarial.utils.intensity import as_intensity_map
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import IMAGE_UNITS, Scene, affine_of, check_spacing, spacing_of
from monai_adversarial.utils.validation import check_choice, check_instance

__all__ = [
    "AdvCTAcquisition",
    "AdvCTAcquisitionD",
    "AdvCTAcquisitionDict",
    "AdvCTAcquisitiond",
    "AdvMRIAcquisition",
    "AdvMRIAcquisitionD",
    "AdvMRIAcquisitionDict",
    "AdvMRIAcquisitiond",
    "AdvUltrasoundReconstruction",
    "AdvUltrasoundReconstructionD",
    "AdvUltrasoundReconstructionDict",
    "AdvUltrasoundReconstructiond",
    "RandPerturbation",
    "RandPerturbationD",
    "RandPerturbationDict",
    "RandPerturbationd",
]

MOST_SEED = 2**31


class RandPerturbation(RandomizableTransform):
    """A random draw of any perturbation within its budget: the random sibling of the attack on the same perturbation.

    What an attack optimizes becomes augmentation: acquisitions, which MONAI has no transforms for, and all others.

    >>> from monai_adversarial.attacks import Acquisition, Cupping, DoseReduction, ReconstructionKernel
    >>> from monai_adversarial.transforms import RandPerturbation
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, label = example_case()
    >>> scanner = Acquisition([Cupping(30), DoseReduction(0.25), ReconstructionKernel(0.3)])
    >>> transform = RandPerturbation(scanner, prob=1.0, image_units="HU").set_random_state(0)
    >>> first, second = transform(image[0]), transform(image[0])
    >>> first.shape, bool((first != second).any())  # another scanner each time
    (torch.Size([1, 32, 32, 32]), True)

    Args:
        perturbation: any perturbation, for example ``CTAcquisition([...])``, ``MRIAcquisition()``, ``GantryTilt()``.
        prob: probability of a draw.
        intensity: map from HU to the network's values, as for :class:`~monai_adversarial.models.AttackedModel`; needed
            by perturbations that need a window.
        image_units: ``"HU"`` or ``"network"`` (the map was already applied).
        spacing: mm along each axis for images without an affine.

    Raises:
        TypeError: for something that is no perturbation.
        ValueError: for unknown units or a spacing that is none; when an image is known, for what the perturbation
            needs and does not have.
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self,
        perturbation: Perturbation,
        prob: float = 0.1,
        intensity: Any = None,
        image_units: str = "network",
        spacing: Any = None,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        self.perturbation = check_instance("perturbation", perturbation, Perturbation, "CTAcquisition()")
        self.intensity = None if intensity is None else as_intensity_map(intensity)
        self.image_units = check_choice("image_units", image_units, IMAGE_UNITS)
        self.spacing = None if spacing is None else check_spacing(spacing)
        self._seed = 0

    def randomize(self, data: Any = None) -> None:
        """Draw whether to act, and the seed of the draw."""
        super().randomize(None)
        self._seed = int(self.R.randint(MOST_SEED))

    def bind(self, batch: torch.Tensor, stored: StoredAs) -> BoundPerturbation:
        """The perturbation on a batch of one, with the seed of the last draw."""
        clean = as_plain(batch)
        scene = Scene(
            image=clean if clean.is_floating_point() else clean.float(),
            seeds=(self._seed,),
            spacing=spacing_of(batch, self.spacing, required=False),
            intensity=self.intensity,
            image_units=self.image_units,
            stored=stored.grid,
            affine=affine_of(batch, self.spacing),
        )
        return self.perturbation.bind(scene)

    def perturb(self, image: torch.Tensor, tracked: torch.Tensor) -> tuple[Any, BoundPerturbation, Parameters]:
        """The changed channel-first image, and what changed it."""
        stored = StoredAs(image.dtype)
        bound = self.bind(computable(as_batch(tracked, tracked.device)), stored)
        clean = bound.scene.image
        with torch.no_grad():
            parameters = bound.random(bound.scene.generators())
            changed = stored(clean, bound.finished(clean, parameters))[0]
        return as_given(changed, image), bound, parameters

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Change a channel-first image. A perturbation that moves anatomy is for the dictionary form, where labels
        move."""
        image, tracked = as_image("img", img)
        if randomize:
            self.randomize()
        if not self._do_transform:
            return image
        changed, _, _ = self.perturb(image, tracked)
        return changed  # type: ignore[no-any-return]


class RandPerturbationd(RandomizableTransform, MapTransform):
    """Dictionary form of :class:`RandPerturbation`: labels move with the image where the perturbation moves anatomy.

    >>> from monai_adversarial.transforms import RandPerturbationd
    >>> from monai_adversarial.attacks import GantryTilt
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, label = example_case()
    >>> transform = RandPerturbationd("image", GantryTilt(30), label_keys="label", prob=1.0).set_random_state(4)
    >>> out = transform({"image": image[0], "label": label[0]})
    >>> bool((out["label"] != label[0]).any())
    True

    Args:
        keys: images of one shape, channel first; all get the same draw.
        perturbation: see :class:`RandPerturbation`.
        label_keys: labels and masks on the grid of the first image, moved by nearest neighbor.
        prob: probability of a draw.
        intensity: see :class:`RandPerturbation`.
        image_units: see :class:`RandPerturbation`.
        spacing: see :class:`RandPerturbation`.
        allow_missing_keys: do not raise when a key is missing.
    """

    backend = RandPerturbation.backend

    def __init__(
        self,
        keys: KeysCollection,
        perturbation: Perturbation,
        label_keys: KeysCollection = (),
        prob: float = 0.1,
        intensity: Any = None,
        image_units: str = "network",
        spacing: Any = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.label_keys = ensure_tuple(label_keys)
        self.transform = RandPerturbation(perturbation, 1.0, intensity, image_units, spacing)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandPerturbationd:
        """Seed the draws."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Change the images of one item, and move its labels."""
        d: dict[Hashable, Any] = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return d
        self.transform.randomize()
        made: tuple[BoundPerturbation, Parameters] | None = None
        for key in self.key_iterator(d):
            image, tracked = as_image(str(key), d[key])
            d[key], bound, parameters = self.transform.perturb(image, tracked)
            made = made or (bound, parameters)
        if made is not None and made[0].geometric:
            bound, parameters = made
            for key in self.label_keys:
                if key not in d and self.allow_missing_keys:
                    continue
                label, _ = as_image(str(key), d[key])
                clean = computable(as_plain(label)[None]).to(bound.scene.image.device)
                d[key] = as_given(bound.move_label(clean, parameters)[0], label)
        return d


class AdvCTAcquisition(AdversarialTransform):
    """The worst CT scanner and protocol within ranges; the adversarial sibling of ``RandPerturbation``.

    >>> from monai_adversarial.attacks import Cupping, DoseReduction
    >>> from monai_adversarial.transforms import AdvCTAcquisition
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> transform = AdvCTAcquisition(model, [Cupping(30), DoseReduction(0.25)], steps=1)
    >>> scan, _ = transform(image[0], label[0])
    >>> for name in ("cupping", "dose"):
    ...     found = transform.last_result.budgets[name]
    ...     print(name, "at least" if found.at_least else "at most", float(found.limit), found.units)
    cupping at most 30.0 HU
    dose at least 0.25 of the dose in use

    Args:
        model: see :class:`AdversarialTransform`.
        blocks: see :class:`~monai_adversarial.attacks.CTAcquisition`.
        steps: gradient evaluations.
        prob: see :class:`AdversarialTransform`.
        spacing: see :class:`AdversarialTransform`.
        options: further arguments of :class:`~monai_adversarial.attacks.CTAcquisitionAttack`.

    Survey entry: A15 (own).

    Source: see :class:`~monai_adversarial.attacks.CTAcquisition`.
    """

    def __init__(
        self,
        model: AttackedModel | Callable[..., Any],
        blocks: Sequence[Perturbation] | None = None,
        steps: int = 10,
        prob: float = 1.0,
        spacing: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(model, CTAcquisitionAttack(blocks, steps=steps, **options), prob, spacing)


class AdvMRIAcquisition(AdversarialTransform):
    """The worst B1 field, motion, ghosts and spikes within ranges; the adversarial sibling of ``RandPerturbation``.

    >>> from monai_adversarial.attacks import LineMotion
    >>> from monai_adversarial.transforms import AdvMRIAcquisition
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> transform = AdvMRIAcquisition(model, [LineMotion()], steps=1)
    >>> scan, same = transform(image[0], label[0])
    >>> bool((same == label[0]).all()), bool((scan != image[0]).any())  # motion blurs, the anatomy stays
    (True, True)

    Args:
        model: see :class:`AdversarialTransform`.
        blocks: see :class:`~monai_adversarial.attacks.MRIAcquisition`.
        steps: gradient evaluations.
        prob: see :class:`AdversarialTransform`.
        spacing: see :class:`AdversarialTransform`.
        options: further arguments of :class:`~monai_adversarial.attacks.MRIAcquisitionAttack`.

    Survey entry: A15 (own).

    Source: see :class:`~monai_adversarial.attacks.MRIAcquisition`.
    """

    def __init__(
        self,
        model: AttackedModel | Callable[..., Any],
        blocks: Sequence[Perturbation] | None = None,
        steps: int = 10,
        prob: float = 1.0,
        spacing: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(model, MRIAcquisitionAttack(blocks, steps=steps, **options), prob, spacing)


class AdvUltrasoundReconstruction(AdversarialTransform):
    """The worst settings of an ultrasound reconstruction, by queries.

    >>> from monai_adversarial.transforms import AdvUltrasoundReconstruction
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> transform = AdvUltrasoundReconstruction(model, queries=8)
    >>> scan, _ = transform(image[0], label[0])
    >>> transform.last_result.backwards, "dynamic_range" in transform.last_result.budgets
    (0, True)

    Args:
        model: see :class:`AdversarialTransform`.
        reconstruction: see :class:`~monai_adversarial.attacks.UltrasoundReconstructionAttack`; of B-mode images, since
            echoes belong to one image.
        queries: of each image.
        prob: see :class:`AdversarialTransform`.
        spacing: see :class:`AdversarialTransform`.
        options: further arguments of :class:`~monai_adversarial.attacks.UltrasoundReconstructionAttack`.

    Survey entry: A14 (reconstruction).

    Source: see :class:`~monai_adversarial.attacks.UltrasoundReconstruction`.
    """

    def __init__(
        self,
        model: AttackedModel | Callable[..., Any],
        reconstruction: UltrasoundReconstruction | None = None,
        queries: int = 100,
        prob: float = 1.0,
        spacing: Any = None,
        **options: Any,
    ) -> None:
        attack: Attack = UltrasoundReconstructionAttack(reconstruction, queries=queries, **options)
        super().__init__(model, attack, prob, spacing)


def _dictionary_form(array: type[AdversarialTransform], example: str) -> type[AdversarialTransformd]:
    """The dictionary form of a transform whose arguments after the model are options, and its example."""

    class Form(AdversarialTransformd):
        def __init__(
            self,
            keys: KeysCollection,
            model: AttackedModel | Callable[..., Any],
            label_key: Hashable | None = None,
            moved_keys: KeysCollection = (),
            mode: Any = None,
            prob: float = 1.0,
            allow_missing_keys: bool = False,
            **options: Any,
        ) -> None:
            super().__init__(keys, array(model, **options), label_key, moved_keys, mode, prob, allow_missing_keys)

    name = f"{array.__name__}d"
    Form.__name__ = Form.__qualname__ = name
    Form.__doc__ = f"""Dictionary form of :class:`~monai_adversarial.transforms.{array.__name__}`.

    {textwrap.indent(inspect.cleandoc(example), " " * 4).lstrip()}

    Args:
        keys: see :class:`AdversarialTransformd`.
        model: what is attacked: an ``AttackedModel`` or a bare network.
        label_key: see :class:`AdversarialTransformd`.
        moved_keys: see :class:`AdversarialTransformd`.
        mode: see :class:`AdversarialTransformd`.
        prob: probability of the attack.
        allow_missing_keys: do not raise when a key is missing.
        options: further arguments of the array form.
    """
    return Form


AdvCTAcquisitionD = AdvCTAcquisitionDict = AdvCTAcquisitiond = _dictionary_form(
    AdvCTAcquisition,
    """
    >>> from monai_adversarial.transforms import AdvCTAcquisitiond
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> worst = AdvCTAcquisitiond("image", model, steps=1, label_key="label")
    >>> item = worst({"image": image[0], "label": label[0]})
    >>> bool(worst.transform.last_result.adversarial_score < 0.5 * worst.transform.last_result.clean_score)
    True
    """,
)
AdvMRIAcquisitionD = AdvMRIAcquisitionDict = AdvMRIAcquisitiond = _dictionary_form(
    AdvMRIAcquisition,
    """
    >>> from monai_adversarial.attacks import Ghosting
    >>> from monai_adversarial.transforms import AdvMRIAcquisitiond
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> ghosts = AdvMRIAcquisitiond("image", model, blocks=[Ghosting()], steps=1, label_key="label")
    >>> item = ghosts({"image": image[0], "label": label[0]})
    >>> sorted(item["image"].applied_operations[-1]["extra_info"]["measured"])[0]
    'ghost_amplitude'
    """,
)
AdvUltrasoundReconstructionD = AdvUltrasoundReconstructionDict = AdvUltrasoundReconstructiond = _dictionary_form(
    AdvUltrasoundReconstruction,
    """
    >>> from monai_adversarial.transforms import AdvUltrasoundReconstructiond
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> worst = AdvUltrasoundReconstructiond("image", model, queries=5, label_key="label")
    >>> item = worst({"image": image[0], "label": label[0]})
    >>> worst.transform.last_result.backwards, bool((item["label"] == label[0]).all())
    (0, True)
    """,
)
RandPerturbationD = RandPerturbationDict = RandPerturbationd
