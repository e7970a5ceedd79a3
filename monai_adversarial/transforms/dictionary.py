# SPDX-License-Identifier: Apache-2.0
"""Dictionary forms of the adversarial transforms."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type, ensure_tuple, ensure_tuple_rep

from monai_adversarial.attacks import AttackResult
from monai_adversarial.models import AttackedModel
from monai_adversarial.transforms.array import (
    AdvAffine,
    AdvBiasField,
    AdvElastic,
    AdversarialTransform,
    AdvNoise,
    as_batch,
    as_image,
)
from monai_adversarial.utils.arrays import StoredAs, as_given, as_tensor, computable
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import Scene, spacing_of
from monai_adversarial.utils.validation import check_choice

__all__ = [
    "AdvAffineD",
    "AdvAffineDict",
    "AdvAffined",
    "AdvBiasFieldD",
    "AdvBiasFieldDict",
    "AdvBiasFieldd",
    "AdvElasticD",
    "AdvElasticDict",
    "AdvElasticd",
    "AdvNoiseD",
    "AdvNoiseDict",
    "AdvNoised",
    "AdversarialTransformd",
]

MODES = ("bilinear", "nearest")

# The finest atlases of organs and of brain regions have 133; images have thousands of values, or fractions.
MOST_LABEL_VALUES = 150


class AdversarialTransformd(RandomizableTransform, MapTransform, InvertibleTransform):
    """Attacks the first image of ``keys``; further images get the same perturbation, labels and masks move with it.

    ``keys=["image", "label"]``, as MONAI's spatial transforms have it, is understood: a key that holds a label is moved
    once, by nearest neighbor, by attacks on geometry, and never touched by attacks on intensities. What is a label:
    ``label_key`` and ``moved_keys``; a key whose ``mode`` is ``"nearest"``; and of the keys after the first, where
    ``mode`` says nothing, one that holds booleans or at most 150 different whole numbers. A label among ``keys`` is
    what the network should predict where ``label_key`` is None; a warning says so once.

    Of several images (modalities in keys of their own) exactly one, the first, is the input of the network and
    attacked. A network whose input holds several modalities takes them concatenated, in one key
    (``ConcatItemsd``).

    Each changed ``MetaTensor`` gets an entry in its ``applied_operations``. ``inverse`` (``Invertd``) brings what was
    made from a geometrically attacked image, such as a prediction, back to the anatomy of the clean image; after an
    attack on intensities it changes nothing.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.transforms import AdversarialTransform, AdversarialTransformd
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> attack = AdversarialTransform(model, PGD(4, units="HU", steps=2))
    >>> item = AdversarialTransformd("image", attack, label_key="label")({"image": image[0], "label": label[0]})
    >>> applied = item["image"].applied_operations[-1]["extra_info"]
    >>> applied["attack"], round(applied["measured"]["noise_linf"], 3)
    ("PGD(4, units='HU', steps=2)", 4.0)

    Args:
        keys: images, and labels that move with them, channel first.
        transform: the array form; its ``prob`` is ignored.
        label_key: class map or one-hot that the network should predict; None: the label among ``keys``, and where there
            is none, the network's clean prediction.
        moved_keys: further labels or masks that move with a geometric attack, by nearest neighbor.
        mode: ``"bilinear"`` (an image) or ``"nearest"`` (a label), one for all ``keys`` or one for each; None: as said
            above.
        prob: probability of the attack.
        allow_missing_keys: do not raise when a key is missing, ``label_key`` and ``moved_keys`` included; an item
            without any image is left clean, with a warning.

    Raises:
        ValueError: for another ``mode``, ``keys`` that name no image, or a label before the image.
        KeyError: for a key that is missing, when it is called.
    """

    backend = AdversarialTransform.backend

    def __init__(
        self,
        keys: KeysCollection,
        transform: AdversarialTransform,
        label_key: Hashable | None = None,
        moved_keys: KeysCollection = (),
        mode: Any = None,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.transform = transform
        self.label_key = label_key
        self.moved_keys = ensure_tuple(moved_keys)
        self.mode = tuple(
            None if given is None else check_choice("mode", str(getattr(given, "value", given)), MODES)
            for given in ensure_tuple_rep(mode, len(self.keys))
        )
        said = {self.label_key, *self.moved_keys}
        said |= {key for key, given in zip(self.keys, self.mode, strict=True) if given == "nearest"}
        #: keys that are labels because something says so
        self.declared_labels = frozenset(said - {None})
        if all(key in self.declared_labels for key in self.keys):
            raise ValueError(f"keys must name an image to attack, got only labels: {list(self.keys)}.")
        self._label_was_named = self._order_was_checked = False
        self._clean_was_said = self._rest_was_checked = False

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> AdversarialTransformd:
        """Seed the draw of ``prob``."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Attack one item of a data set."""
        d: dict[Hashable, Any] = dict(data)
        attack = self.transform.draw(self)
        self._check_named(d)
        images, labels, label_key = self._roles(d)
        if not images:
            self._say_clean(d)
            return d
        first = images[0]
        tracked = None
        for key in (*images, *labels):
            d[key], seen = as_image(str(key), d[key])
            tracked = seen if key == first else tracked
        if not attack:
            for key in (*images, *labels):
                self._record(d[key], None, key in labels)
            return d
        assert tracked is not None
        result = self.transform.run(tracked, None if label_key is None else d[label_key])
        for key in images:
            d[key] = self._perturbed(d[key], result, attacked=key == first)
            self._record(d[key], result, False)
        for key in labels:
            clean = computable(_batch_of_one(d[key])).to(result.image.device)
            d[key] = as_given(result.bound.move_label(clean, result.parameters)[0], d[key])
            self._record(d[key], result, True)
        if result.bound.geometric and not labels:  # who names one knows of the others
            self._check_rest(d, images, tuple(tracked.shape[1:]))
        return d

    def _check_named(self, d: Mapping[Hashable, Any]) -> None:
        """Raise for a label that is named and is not there: it would stay where it was, and the network's own answer
        take its place."""
        if self.allow_missing_keys:
            return
        for name, keys in (("label_key", (self.label_key,)), ("moved_keys", self.moved_keys)):
            missing = [key for key in keys if key is not None and key not in d]
            if missing:
                raise KeyError(
                    f"{name} names {missing[0]!r}, but the item holds {', '.join(map(str, d))}: write the label's own "
                    f"key, leave it out, or pass allow_missing_keys=True to {type(self).__name__}."
                )

    def _say_clean(self, d: Mapping[Hashable, Any]) -> None:
        """Warn, once, of an item that has nothing to attack."""
        if self._clean_was_said:
            return
        self._clean_was_said = True
        warnings.warn(
            f"{type(self).__name__} attacked nothing: of keys={list(self.keys)} the item holds no image, but "
            f"{', '.join(map(str, d))}. Scores of such items are those of clean images.",
            stacklevel=3,
        )

    def _check_rest(self, d: Mapping[Hashable, Any], moved: Sequence[Hashable], shape: tuple[int, ...]) -> None:
        """Warn of a label on the image's grid that stays where it was while the anatomy moves; on the first item
        alone, as labels are sorted for it."""
        if self._rest_was_checked:
            return
        self._rest_was_checked = True
        stay = [
            key
            for key, value in d.items()
            if key not in moved
            and isinstance(value, (torch.Tensor, np.ndarray))
            and tuple(value.shape[1:]) == shape
            and holds_labels(value)
        ]
        if stay:
            warnings.warn(
                f"{type(self).__name__} moves the anatomy of the image, but {', '.join(map(repr, stay))} on its grid "
                "stays where it was, and scores compare different places: name it in label_key or moved_keys.",
                stacklevel=3,
            )

    def _roles(self, d: Mapping[Hashable, Any]) -> tuple[list[Hashable], list[Hashable], Hashable | None]:
        """Keys of the images, of all labels, and of the label that the network should predict."""
        if not self._order_was_checked:
            self._check_order(d)
        images: list[Hashable] = []
        labels = [key for key in dict.fromkeys((self.label_key, *self.moved_keys)) if key is not None and key in d]
        found: list[Hashable] = []
        for key, mode in self.key_iterator(d, self.mode):
            if key in self.declared_labels:
                found.append(key)
            elif not images or mode is not None or not holds_labels(d[key]):
                images.append(key)
            else:
                found.append(key)
        label_key = self.label_key if self.label_key in labels else None
        candidates = [key for key in found if key not in self.moved_keys]
        if self.label_key is None and candidates:
            label_key = candidates[0]
            self._say(label_key)
        return images, list(dict.fromkeys((*labels, *found))), label_key

    def _check_order(self, d: Mapping[Hashable, Any]) -> None:
        """Raise where the first of ``keys`` is a label and a later one the image; on the first item alone, as a crop of
        an image may hold few values."""
        unsaid = [
            key for key, mode in self.key_iterator(d, self.mode) if mode is None and key not in self.declared_labels
        ]
        self._order_was_checked = True
        is_label = [holds_labels(d[key]) for key in unsaid]
        if unsaid[:1] == [key for key in self.key_iterator(d)][:1] and is_label[:1] == [True] and not all(is_label):
            image = unsaid[is_label.index(False)]
            raise ValueError(
                f"keys must name the image first: {unsaid[0]!r} holds few whole numbers, as labels do, and {image!r} "
                f"does not; write keys=({image!r}, {unsaid[0]!r}), or mode='bilinear' if both are images."
            )

    def _say(self, label_key: Hashable) -> None:
        if not self._label_was_named:
            self._label_was_named = True
            warnings.warn(
                f"{type(self).__name__} takes {label_key!r} among keys as the label that the network should predict: "
                f"pass label_key={label_key!r}, or moved_keys={label_key!r} if it only moves with the image.",
                stacklevel=4,
            )

    def _perturbed(self, image: torch.Tensor, result: AttackResult, attacked: bool) -> torch.Tensor:
        if attacked:
            return convert_to_dst_type(as_plain(result.adversarial)[0], dst=image)[0]
        clean = _batch_of_one(image).to(result.image)
        stored = StoredAs(image.dtype)
        scene = replace(result.bound.scene, image=clean, region=None, budget=None, stored=stored.grid)
        bound = self.transform.attack.perturbation.bind(scene)
        with torch.no_grad():
            parameters = bound.project(result.parameters)
            return as_given(stored(clean, bound.finished(clean, parameters))[0], image)

    def _record(self, image: Any, result: AttackResult | None, is_label: bool) -> None:
        if not isinstance(image, MetaTensor):
            return
        info: dict[str, Any] = {"attacked": result is not None}
        if result is not None:
            info["attack"] = repr(self.transform.attack)
            info["measured"] = {name: float(found.values[0]) for name, found in result.budgets.items()}
            if result.bound.geometric:
                info["mode"] = "nearest" if is_label else "bilinear"
                info["parameters"] = [parameter[0].cpu() for parameter in result.parameters]
        self.push_transform(image, extra_info=info)

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undo the movement of anatomy; changes of intensity stay, as with MONAI's random intensity transforms.

        Images are interpolated linearly, labels and what ``Invertd`` calls ``nearest_interp`` by nearest neighbor.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            info = self.pop_transform(d[key])["extra_info"]
            if "parameters" not in info:
                continue
            batch = _batch_of_one(d[key])
            volume = batch if batch.is_floating_point() else batch.float()
            spacing = spacing_of(as_batch(d[key], volume.device), self.transform.spacing)
            bound = self.transform.attack.perturbation.bind(Scene(volume, (0,), spacing))
            parameters = tuple(torch.as_tensor(p)[None].to(volume) for p in info["parameters"])
            linear = batch.is_floating_point() and info.get("mode") != "nearest"
            d[key] = as_given(bound.pull_back(volume, parameters, "linear" if linear else "nearest")[0], d[key])
        return d


def holds_labels(values: Any) -> bool:
    """Whether an array holds booleans or few different whole numbers, as labels do and images hardly ever."""
    tensor = as_plain(as_tensor("label", values))
    if tensor.dtype == torch.bool:
        return True
    tensor = computable(tensor)
    if tensor.is_floating_point() and not bool((tensor == tensor.round()).all()):
        return False
    some = tensor.flatten()[:: 1 + tensor.numel() // 1_000_000]  # sorting a whole volume takes seconds
    return some.unique().numel() <= MOST_LABEL_VALUES


def _batch_of_one(tensor: torch.Tensor) -> torch.Tensor:
    return as_plain(tensor)[None]


class AdvNoised(AdversarialTransformd):
    """Dictionary form of :class:`~monai_adversarial.transforms.AdvNoise`.

    >>> from monai.transforms import Compose, ScaleIntensityRanged
    >>> from monai_adversarial.transforms import AdvNoised
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> scale = ScaleIntensityRanged("image", a_min=-160, a_max=340, b_min=0, b_max=1)
    >>> attack = AdvNoised("image", model, epsilon=8, units="HU", steps=2, label_key="label")
    >>> clean = {"image": image[0], "label": label[0]}
    >>> change = (Compose([attack, scale])(clean)["image"] - scale(clean)["image"]).abs().max()
    >>> round(float(change), 4)  # 8 HU of a window of 500 HU
    0.016

    Args:
        keys: see :class:`AdversarialTransformd`.
        model: what is attacked: an ``AttackedModel`` or a bare network.
        epsilon: radius of the budget, in ``units``.
        label_key: see :class:`AdversarialTransformd`.
        moved_keys: see :class:`AdversarialTransformd`.
        mode: see :class:`AdversarialTransformd`.
        prob: probability of the attack.
        allow_missing_keys: do not raise when a key is missing.
        options: further arguments of the array form.
    """

    def __init__(
        self,
        keys: KeysCollection,
        model: AttackedModel | Callable[..., Any],
        epsilon: float,
        label_key: Hashable | None = None,
        moved_keys: KeysCollection = (),
        mode: Any = None,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        transform = AdvNoise(model, epsilon, **options)
        super().__init__(keys, transform, label_key, moved_keys, mode, prob, allow_missing_keys)


class AdvBiasFieldd(AdversarialTransformd):
    """Dictionary form of :class:`~monai_adversarial.transforms.AdvBiasField`: ``RandBiasFieldd`` with the worst
    coefficients.

    >>> from monai_adversarial.transforms import AdvBiasFieldd
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> shade = AdvBiasFieldd(["t1", "t2"], model, max_gain=0.2, steps=1, label_key="label", mode="bilinear")
    >>> item = shade({"t1": image[0], "t2": 2 * image[0], "label": label[0]})
    >>> bool((item["t1"] - image[0]).abs().max() > 5), bool((item["t2"] - 2 * item["t1"]).abs().max() < 0.01)
    (True, True)

    Args:
        keys: see :class:`AdversarialTransformd`.
        model: what is attacked: an ``AttackedModel`` or a bare network.
        degree: of the Legendre products.
        max_gain: largest relative change of intensity.
        label_key: see :class:`AdversarialTransformd`.
        moved_keys: see :class:`AdversarialTransformd`.
        mode: see :class:`AdversarialTransformd`.
        prob: probability of the attack.
        allow_missing_keys: do not raise when a key is missing.
        options: further arguments of the array form.
    """

    def __init__(
        self,
        keys: KeysCollection,
        model: AttackedModel | Callable[..., Any],
        degree: int = 3,
        max_gain: float = 0.3,
        label_key: Hashable | None = None,
        moved_keys: KeysCollection = (),
        mode: Any = None,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        transform = AdvBiasField(model, degree, max_gain, **options)
        super().__init__(keys, transform, label_key, moved_keys, mode, prob, allow_missing_keys)


class AdvElasticd(AdversarialTransformd):
    """Dictionary form of :class:`~monai_adversarial.transforms.AdvElastic`.

    >>> from monai_adversarial.transforms import AdvElasticd
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(24)
    >>> warp = AdvElasticd(["image", "label"], model, max_displacement=5.0, steps=1, label_key="label")
    >>> item = warp({"image": image[0], "label": label[0]})
    >>> moved, back = ((x != label[0]).sum() for x in (item["label"], warp.inverse(item)["label"]))
    >>> bool(back < 0.3 * moved)  # voxels of another class
    True

    Args:
        keys: see :class:`AdversarialTransformd`.
        model: what is attacked: an ``AttackedModel`` or a bare network.
        max_displacement: in mm, one number or one per axis.
        label_key: see :class:`AdversarialTransformd`; it moves with the image.
        moved_keys: see :class:`AdversarialTransformd`.
        mode: see :class:`AdversarialTransformd`.
        prob: probability of the attack.
        allow_missing_keys: do not raise when a key is missing.
        options: further arguments of the array form.
    """

    def __init__(
        self,
        keys: KeysCollection,
        model: AttackedModel | Callable[..., Any],
        max_displacement: float | Sequence[float] = 5.0,
        label_key: Hashable | None = None,
        moved_keys: KeysCollection = (),
        mode: Any = None,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        transform = AdvElastic(model, max_displacement, **options)
        super().__init__(keys, transform, label_key, moved_keys, mode, prob, allow_missing_keys)


class AdvAffined(AdversarialTransformd):
    """Dictionary form of :class:`~monai_adversarial.transforms.AdvAffine`.

    >>> from monai_adversarial.transforms import AdvAffined
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> move = AdvAffined("image", model, max_translation=12.0, steps=1, label_key="label", moved_keys="liver")
    >>> item = move({"image": image[0], "label": label[0], "liver": label[0] == 2})
    >>> item["liver"].dtype, bool((item["liver"] == (item["label"] == 2)).all())  # the mask moves as the label
    (torch.bool, True)

    Args:
        keys: see :class:`AdversarialTransformd`.
        model: what is attacked: an ``AttackedModel`` or a bare network.
        max_rotation: degrees about each axis.
        max_translation: mm along each axis.
        label_key: see :class:`AdversarialTransformd`; it moves with the image.
        moved_keys: see :class:`AdversarialTransformd`.
        mode: see :class:`AdversarialTransformd`.
        prob: probability of the attack.
        allow_missing_keys: do not raise when a key is missing.
        options: further arguments of the array form.
    """

    def __init__(
        self,
        keys: KeysCollection,
        model: AttackedModel | Callable[..., Any],
        max_rotation: float = 10.0,
        max_translation: float = 10.0,
        label_key: Hashable | None = None,
        moved_keys: KeysCollection = (),
        mode: Any = None,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        transform = AdvAffine(model, max_rotation, max_translation, **options)
        super().__init__(keys, transform, label_key, moved_keys, mode, prob, allow_missing_keys)


AdvNoiseD = AdvNoiseDict = AdvNoised
AdvBiasFieldD = AdvBiasFieldDict = AdvBiasFieldd
AdvElasticD = AdvElasticDict = AdvElasticd
AdvAffineD = AdvAffineDict = AdvAffined
