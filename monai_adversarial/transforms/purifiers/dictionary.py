# SPDX-License-Identifier: Apache-2.0
"""Dictionary forms of the purifiers."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Randomizable
from monai.utils import convert_to_dst_type

from monai_adversarial.attacks.plain import as_plain
from monai_adversarial.transforms.purifiers.base import Purifier, RandomPurifier

__all__ = ["GeometricPurifierd", "Purifierd", "RandomPurifierd", "dictionary_form"]


class Purifierd(MapTransform):
    """Applies a purifier to each of ``keys``.

    Args:
        keys: images, channel first.
        allow_missing_keys: do not raise when a key is missing.
        options: arguments of the array form.
    """

    array_form: type[Purifier]

    def __init__(self, keys: KeysCollection, *arguments: Any, allow_missing_keys: bool = False, **options: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        self.purifier = self.array_form(*arguments, **options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Purify one item of a data set, all keys with the same draw."""
        d = dict(data)
        seeds = self.purifier.draw_seeds()
        for key in self.key_iterator(d):
            d[key] = self.purifier.run(d[key], seeds)
            self._record(d[key], seeds)
        return d

    def _record(self, image: Any, seeds: tuple[int, ...]) -> None:
        """Leave on the image what an inverse needs: nothing, unless anatomy moved."""


class RandomPurifierd(Purifierd, Randomizable):
    """A purifier that draws random numbers, one draw per item for all keys."""

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandomPurifierd:
        """Seed the draws."""
        super().set_random_state(seed, state)
        self.purifier.set_random_state(seed, state)  # type: ignore[attr-defined]
        return self


class GeometricPurifierd(RandomPurifierd, InvertibleTransform):
    """A purifier that moves anatomy: ``inverse`` (``Invertd``) brings predictions back."""

    def _record(self, image: Any, seeds: tuple[int, ...]) -> None:
        """Every ``MetaTensor`` gets an entry in its ``applied_operations``."""
        if isinstance(image, MetaTensor):
            self.push_transform(image, extra_info={"seeds": list(seeds)})

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring what was made from the moved image, such as a prediction, back to the image's anatomy."""
        d = dict(data)
        for key in self.key_iterator(d):
            seeds = tuple(int(seed) for seed in self.pop_transform(d[key])["extra_info"]["seeds"])
            volume = as_plain(d[key])[None]
            context = self.purifier.context_of(MetaTensor(volume, affine=d[key].affine), seeds)
            out = self.purifier.pull_back(volume, context)[0]
            d[key] = convert_to_dst_type(out, dst=d[key], dtype=volume.dtype)[0]
        return d


def dictionary_form(array_form: type[Purifier]) -> type[Purifierd]:
    """The dictionary form of a purifier, named as MONAI names pairs: ``Foo`` and ``Food``.

    Args:
        array_form: the purifier; its arguments follow ``keys``.
    """
    base: type[Purifierd] = Purifierd
    if array_form.geometric:
        base = GeometricPurifierd
    elif issubclass(array_form, RandomPurifier):
        base = RandomPurifierd
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("keys", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=KeysCollection),
        *inspect.signature(array_form).parameters.values(),
        inspect.Parameter("allow_missing_keys", keyword, default=False, annotation=bool),
    ]
    return type(
        f"{array_form.__name__}d",
        (base,),
        {
            "array_form": array_form,
            "backend": array_form.backend,
            "__doc__": f"Dictionary form of :class:`{array_form.__name__}`: ``keys``, then its arguments.",
            "__module__": array_form.__module__,
            "__signature__": inspect.Signature(parameters),
        },
    )
