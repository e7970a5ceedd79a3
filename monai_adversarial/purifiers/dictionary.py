# SPDX-License-Identifier: Apache-2.0
"""Dictionary forms of the purifiers."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Randomizable
from monai.utils import convert_to_dst_type, ensure_tuple

from monai_adversarial.purifiers.base import Purifier, RandomPurifier
from monai_adversarial.utils.plain import as_plain

__all__ = ["GeometricPurifierd", "Purifierd", "RandomPurifierd", "dictionary_form"]

MODES = ("bilinear", "nearest")


class Purifierd(MapTransform):
    """Applies a purifier to each of ``keys``.

    Each purifier has such a form, for example ``MedianDenoised``:

    >>> import numpy as np
    >>> from monai_adversarial.transforms import MedianDenoised, Purifierd
    >>> transform = MedianDenoised("image", size=3)
    >>> isinstance(transform, Purifierd), type(transform.purifier).__name__
    (True, 'MedianDenoise')
    >>> sorted(transform({"image": np.zeros((1, 4, 4)), "label": np.ones((1, 4, 4))}))
    ['image', 'label']

    Args:
        keys: images, channel first.
        allow_missing_keys: do not raise when a key is missing.
        options: arguments of the array form.
    """

    array_form: type[Purifier]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(keys={self.keys!r}, {self.purifier!r})"

    def __init__(self, keys: KeysCollection, *arguments: Any, allow_missing_keys: bool = False, **options: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        self.purifier = self.array_form(*arguments, **options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Purify one item of a data set, all keys with the same draw."""
        d = dict(data)
        seeds = self.purifier.draw_seeds()
        for key in self.key_iterator(d):
            d[key] = self.purifier.run(d[key], seeds)
        return d


class RandomPurifierd(Purifierd, Randomizable):
    """A purifier that draws random numbers, one draw per item for all keys.

    >>> import numpy as np
    >>> from monai_adversarial.transforms import RandJPEGCompressiond, RandomPurifierd
    >>> transform = RandJPEGCompressiond(["phase1", "phase2"], quality=(20, 90)).set_random_state(0)
    >>> scan = np.random.default_rng(0).normal(50, 20, (1, 16, 16))
    >>> item = transform({"phase1": scan, "phase2": scan})
    >>> isinstance(transform, RandomPurifierd), bool((item["phase1"] == item["phase2"]).all())
    (True, True)
    """

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandomPurifierd:
        """Seed the draws."""
        super().set_random_state(seed, state)
        self.purifier.set_random_state(seed, state)  # type: ignore[attr-defined]
        return self


class GeometricPurifierd(RandomPurifierd, InvertibleTransform):
    """A purifier that moves anatomy: ``inverse`` (``Invertd``) brings predictions back.

    >>> from monai_adversarial.transforms import GeometricPurifierd, RandResizeShiftd
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, label = example_case()
    >>> transform = RandResizeShiftd(["image", "label"], mode=["bilinear", "nearest"]).set_random_state(3)
    >>> moved = transform({"image": image[0], "label": label[0]})
    >>> isinstance(transform, GeometricPurifierd), moved["label"].unique().tolist()
    (True, [0.0, 1.0, 2.0, 3.0])
    >>> back = transform.inverse(moved)["label"]
    >>> bool((back != label[0]).sum() < 0.2 * (moved["label"] != label[0]).sum())
    True

    Args:
        keys: images and labels, channel first.
        mode: ``"bilinear"`` for images or ``"nearest"`` for labels, whose values then do not mix; one for all keys or
            one per key, as for MONAI's spatial transforms. Labels of an integer type need no mode.
        allow_missing_keys: do not raise when a key is missing.
        options: arguments of the array form.

    Raises:
        ValueError: for another mode, or another number of them.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *arguments: Any,
        mode: str | Sequence[str] = "bilinear",
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, *arguments, allow_missing_keys=allow_missing_keys, **options)
        modes = [str(one) for one in ensure_tuple(mode)]
        if len(modes) not in (1, len(self.keys)) or not set(modes) <= set(MODES):
            raise ValueError(
                f"mode must be 'bilinear' or 'nearest', one for all keys or one per key ({len(self.keys)}), got "
                f"{mode!r}."
            )
        self.mode = tuple(modes) if len(modes) == len(self.keys) else (modes[0],) * len(self.keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Move one item of a data set, all keys by the same draw; a ``MetaTensor`` gets an entry in its
        ``applied_operations``."""
        d = dict(data)
        seeds = self.purifier.draw_seeds()
        for key, mode in self.key_iterator(d, self.mode):
            d[key] = self.purifier.run(d[key], seeds, mode)
            if isinstance(d[key], MetaTensor):
                # MONAI's Invertd(nearest_interp=True) looks for "mode" and sets it to "nearest".
                self.push_transform(d[key], extra_info={"seeds": list(seeds), "mode": mode})
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring what was made from the moved image, such as a prediction, back to the image's anatomy."""
        d = dict(data)
        for key in self.key_iterator(d):
            applied = self.pop_transform(d[key])["extra_info"]
            seeds = tuple(int(seed) for seed in applied["seeds"])
            volume = as_plain(d[key])[None]
            context = self.purifier.context_of(MetaTensor(volume, affine=d[key].affine), seeds)
            context = replace(context, interpolation=str(applied["mode"]))
            out = self.purifier.pull_back(volume, context)[0]
            d[key] = convert_to_dst_type(out, dst=d[key], dtype=volume.dtype)[0]
        return d


def dictionary_form(array_form: type[Purifier], example: str = "") -> type[Purifierd]:
    """The dictionary form of a purifier, named as MONAI names pairs: ``Foo`` and ``Food``.

    Args:
        array_form: the purifier; its arguments follow ``keys``.
    >>> from monai_adversarial.purifiers.dictionary import dictionary_form
    >>> from monai_adversarial.transforms import Purifier
    >>> class Clip(Purifier):
    ...     def purify(self, image, context):
    ...         return image.clamp(0, 100)
    >>> Clipd = dictionary_form(Clip)
    >>> Clipd.__name__, Clipd("image")
    ('Clipd', Clipd(keys=('image',), Clip()))
    """
    base: type[Purifierd] = Purifierd
    if array_form.geometric:
        base = GeometricPurifierd
    elif issubclass(array_form, RandomPurifier):
        base = RandomPurifierd
    keyword, modes = inspect.Parameter.KEYWORD_ONLY, "str | Sequence[str]"
    parameters = [
        inspect.Parameter("keys", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=KeysCollection),
        *inspect.signature(array_form).parameters.values(),
        *([inspect.Parameter("mode", keyword, default="bilinear", annotation=modes)] if array_form.geometric else []),
        inspect.Parameter("allow_missing_keys", keyword, default=False, annotation=bool),
    ]
    more = "; ``mode`` as in :class:`GeometricPurifierd`" if array_form.geometric else ""
    summary = f"Dictionary form of :class:`{array_form.__name__}`: ``keys``, then its arguments{more}."
    return type(
        f"{array_form.__name__}d",
        (base,),
        {
            "array_form": array_form,
            "backend": array_form.backend,
            "__doc__": f"{summary}\n\n{inspect.cleandoc(example)}".rstrip(),
            "__module__": array_form.__module__,
            "__signature__": inspect.Signature(parameters),
        },
    )
