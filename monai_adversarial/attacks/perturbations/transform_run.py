# SPDX-License-Identifier: Apache-2.0
"""One draw of a random transform of MONAI or TorchIO: image, and label by the same draw."""

from __future__ import annotations

import copy
import inspect
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    Identity,
    LazyTransform,
    MapTransform,
    Randomizable,
    RandomizableTransform,
    RandZoom,
    RandZoomd,
    Transform,
    Zoom,
    Zoomd,
)
from monai.transforms.traits import MultiSampleTrait

from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_flag

__all__ = ["IMAGE_KEY", "LABEL_KEY", "TransformRun", "describe_transform"]

IMAGE_KEY, LABEL_KEY = "image", "label"

# Transforms of MONAI outside its folders `intensity` and `spatial`, or that are not what their folder says.
INTENSITY = {
    "CastToType",
    "EnsureType",
    "Identity",
    "ImageFilter",
    "RandIdentity",
    "RandImageFilter",
    "RandSimulateLowResolution",
    "RandSmoothFieldAdjustContrast",
    "RandSmoothFieldAdjustIntensity",
    "ToTensor",
}
GEOMETRIC = {"RandSmoothDeform"}

# Attributes in which transforms of MONAI keep how they interpolate.
MODES = ("mode", "grid_mode")

# Settings that change nothing, or that transforms of MONAI note while they run.
UNTOLD = {"R", "lazy", "cache_grid", "device", "dtype", "resampler", "keys", "allow_missing_keys"}
UNTOLD |= {"prob", "probability", "copy", "parse_input", "args_names", "map_items", "unpack", "log_stats"}

# Generators of the process, which TorchIO draws from, belong to one draw at a time.
_generators = threading.Lock()


class _LeftOut(Randomizable):
    """Stands for a random transform of intensities while a label is moved, so that the others keep their draws."""

    def __call__(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        return data

    def randomize(self, data: Any = None) -> None:
        """Nothing to draw."""


class TransformRun:
    """Runs a transform with a seed.

    The transform is copied, so that its own random state stays as it is, and in every copy each transform is applied in
    each draw unless ``keep_prob``.

    Args:
        transform: random transform of MONAI (array or dictionary form, or a ``Compose``, ``OneOf``, ``SomeOf`` or
            ``RandomOrder`` of either) or TorchIO. The dictionary form finds the image under ``"image"`` and, where it
            moves anatomy, the label under ``"label"``.
        moves_anatomy: whether labels move with the image; None: as MONAI and TorchIO say.
        keep_prob: keep the transforms' own probabilities.

    Attributes:
        geometric: whether labels move with the image.

    Raises:
        TypeError: for something that is no transform.
        ValueError: for a transform that makes several images, mixes array and dictionary forms, moves anatomy but not
            the label, or does not say whether it moves anatomy.
    """

    def __init__(self, transform: Any, moves_anatomy: bool | None = None, keep_prob: bool = False) -> None:
        if not callable(transform) or isinstance(transform, (type, torch.nn.Module)):
            raise TypeError(
                f"transform must be a random transform of MONAI or TorchIO, or a Perturbation, got "
                f"{transform.__name__ if isinstance(transform, type) else type(transform).__name__}."
            )
        self.transform = _ready(transform, keep_prob)
        self.torchio = is_torchio(transform)
        leaves = list(_leaves(self.transform))
        for leaf in leaves:
            if isinstance(leaf, MultiSampleTrait):
                raise ValueError(f"transform must make one image of one, but {_name(leaf)} makes several.")
        self.dictionary = _is_dictionary(leaves)
        told = None if moves_anatomy is None else check_flag("moves_anatomy", moves_anatomy)
        moving = [leaf for leaf in leaves if _moves(leaf, told)]
        self.geometric = bool(moving)
        if told is not None and told != self.geometric:
            raise ValueError(
                f"moves_anatomy is {told}, but {_name(transform)} "
                f"{'moves' if self.geometric else 'does not move'} anatomy: leave it out."
            )
        if self.dictionary and self.geometric:
            for leaf in moving:
                if isinstance(leaf, MapTransform) and LABEL_KEY not in leaf.keys:
                    raise ValueError(
                        f"transform moves anatomy, so the keys of {_name(leaf)} must hold {LABEL_KEY!r} beside "
                        f"{IMAGE_KEY!r}, got {list(leaf.keys)}."
                    )
        self._for_labels = self.transform
        if self.geometric and not self.dictionary and not self.torchio:
            self._for_labels = _only_movement(copy.deepcopy(self.transform), told)
            for leaf in _leaves(self._for_labels):
                _set_nearest(leaf)
        self._is_random = isinstance(self.transform, Randomizable)
        self._process_generators = self.torchio or not all(_draws_by_itself(leaf) for leaf in leaves)

    def image(self, image: torch.Tensor, seed: int, affine: np.ndarray) -> torch.Tensor:
        """The transformed image of one sample.

        Args:
            image: (channel, spatial...), plain tensor.
            seed: of the draw.
            affine: of the image's voxels in mm, (4, 4).
        """
        return self._checked(self._run(self.transform, image, None, seed, affine)[0], image, "image")

    def label(self, label: torch.Tensor, image: torch.Tensor, seed: int, affine: np.ndarray) -> torch.Tensor:
        """A label or mask (channel, spatial...), moved as the same draw moves the image; nearest neighbor."""
        if not self.geometric:
            return label
        wide = label.to(torch.float32)
        if self.dictionary or self.torchio:
            moved = self._run(self.transform, image, wide, seed, affine)[1]
        else:
            moved = self._run(self._for_labels, wide, None, seed, affine)[0]
        moved = self._checked(moved, label, "label")
        if not label.is_floating_point():
            if bool((moved != moved.round()).any()):
                raise ValueError(
                    f"transform must move labels by nearest neighbor, but {_name(self.transform)} made values between "
                    f"them: give {LABEL_KEY!r} the mode 'nearest'."
                )
            return moved.to(label.dtype)
        return moved.to(label.dtype)

    def _run(
        self, transform: Any, image: torch.Tensor, label: torch.Tensor | None, seed: int, affine: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.geometric and label is None:
            label = torch.zeros_like(image[:1])  # what is drawn must not depend on whether there is a label
        with self._seeded(transform, seed, image.device):
            if self.torchio:
                return _run_torchio(transform, image, label, affine)
            first = MetaTensor(image.clone(), affine=torch.as_tensor(affine))
            if not self.dictionary:
                return transform(first), None
            data = {IMAGE_KEY: first}
            if label is not None:
                data[LABEL_KEY] = MetaTensor(label.clone(), affine=torch.as_tensor(affine))
            out = transform(data)
            return out[IMAGE_KEY], out.get(LABEL_KEY)

    @contextmanager
    def _seeded(self, transform: Any, seed: int, device: torch.device) -> Iterator[None]:
        if self._is_random:
            transform.set_random_state(seed=seed)
        if not self._process_generators:
            yield
            return
        with _generators:
            # Not a choice of this package: transforms draw from NumPy's legacy state, which belongs to the process.
            numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.random.default_generator.manual_seed(seed)
                if device.type == "cuda":
                    torch.cuda.manual_seed(seed)
                np.random.seed(seed)  # noqa: NPY002
                random.seed(seed)
                try:
                    yield
                finally:
                    np.random.set_state(numpy_state)  # noqa: NPY002
                    random.setstate(python_state)

    def _checked(self, made: Any, given: torch.Tensor, what: str) -> torch.Tensor:
        plain = as_plain(torch.as_tensor(made))
        if plain.shape != given.shape:
            raise ValueError(
                f"transform must keep the shape of the {what}, but {_name(self.transform)} made {tuple(plain.shape)} "
                f"of {tuple(given.shape)}."
            )
        return plain.to(given.device)


def is_torchio(transform: Any) -> bool:
    """Whether a transform is of TorchIO, which is not imported for the question."""
    return any(base.__module__.partition(".")[0] == "torchio" for base in type(transform).__mro__)


def _run_torchio(
    transform: Any, image: torch.Tensor, label: torch.Tensor | None, affine: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """TorchIO knows (channel, x, y, z) only; further axes have length 1."""
    import torchio

    missing = 4 - image.ndim
    if missing < 0:
        raise ValueError(f"TorchIO transforms images of at most 3 axes, got {image.ndim - 1}.")

    def deep(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(*tensor.shape, *[1] * missing).cpu()

    def flat(tensor: torch.Tensor) -> torch.Tensor:
        extra = tensor.shape[4 - missing :] if missing else ()
        return tensor if any(size != 1 for size in extra) else tensor.reshape(tensor.shape[: 4 - missing])

    parts: dict[str, Any] = {IMAGE_KEY: torchio.ScalarImage(tensor=deep(image).float().clone(), affine=affine)}
    if label is not None:
        parts[LABEL_KEY] = torchio.LabelMap(tensor=deep(label).clone(), affine=affine)
    out = transform(torchio.Subject(**parts))
    return flat(out[IMAGE_KEY].data), None if label is None else flat(out[LABEL_KEY].data)


def _parts(transform: Any) -> list[Any]:
    """The members of a composition, empty for one transform."""
    if isinstance(transform, Compose):
        return list(transform.transforms)
    if is_torchio(transform):
        of_names = getattr(transform, "transforms_dict", None)
        return list(of_names) if of_names is not None else list(getattr(transform, "transforms", ()))
    if type(transform).__name__ in ("RandTorchIO", "TorchIO"):
        raise ValueError(f"transform must be the TorchIO transform itself instead of MONAI's {_name(transform)}.")
    return []


def _leaves(transform: Any) -> Iterator[Any]:
    parts = _parts(transform)
    if not parts:
        yield transform
    for part in parts:
        yield from _leaves(part)


def _ready(transform: Any, keep_prob: bool) -> Any:
    """A copy that is applied in each draw and computes at once."""
    made = copy.deepcopy(transform)

    def visit(one: Any) -> None:
        if isinstance(one, LazyTransform):
            one.lazy = False
        if isinstance(one, (RandZoomd, Zoomd)):  # "nearest" is half a voxel away from where images are sampled
            one.mode = tuple("nearest-exact" if mode == "nearest" else mode for mode in one.mode)
        if not keep_prob:
            if isinstance(one, RandomizableTransform):
                one.prob = 1.0
            elif is_torchio(one):
                one.probability = 1.0
        for part in _parts(one):
            visit(part)

    visit(made)
    return made


def _is_dictionary(leaves: list[Any]) -> bool:
    forms = {isinstance(leaf, MapTransform) for leaf in leaves if not isinstance(leaf, (Identity, _LeftOut))}
    if len(forms) > 1:
        raise ValueError(
            "transform must be of one form, but it holds array and dictionary transforms: "
            f"{', '.join(map(_name, leaves))}."
        )
    return forms == {True}


def _moves(leaf: Any, told: bool | None) -> bool:
    """Whether a transform moves anatomy.

    Raises:
        ValueError: where neither it nor ``told`` says so.
    """
    if is_torchio(leaf):
        names = {base.__name__ for base in type(leaf).__mro__}
        if "SpatialTransform" in names:
            return True
        if names & {"IntensityTransform", "RandomAnisotropy"}:
            return False
    for base in type(leaf).__mro__:
        module, name = base.__module__, base.__name__.removesuffix("d")
        if base in (Transform, RandomizableTransform, MapTransform) or not module.startswith("monai.transforms."):
            continue
        if name in INTENSITY or module.startswith("monai.transforms.intensity."):
            return False
        if name in GEOMETRIC or module.startswith(("monai.transforms.spatial.", "monai.transforms.croppad.")):
            return True
    if told is None:
        raise ValueError(
            f"moves_anatomy must be True or False for {_name(leaf)}, which neither MONAI nor TorchIO tells: True where "
            "labels must move with the image."
        )
    return told


def _draws_by_itself(leaf: Any) -> bool:
    """Whether all random numbers of a transform come from its own ``set_random_state``."""
    own = type(leaf).__module__.startswith("monai.transforms.") and "Lambda" not in type(leaf).__name__
    return own and (isinstance(leaf, Randomizable) or not type(leaf).__name__.startswith("Rand"))


def _only_movement(transform: Any, told: bool | None) -> Any:
    """The composition without its transforms of intensities; every member keeps its seed."""
    if not _parts(transform):
        if _moves(transform, told):
            return transform
        return _LeftOut() if isinstance(transform, Randomizable) else Identity()
    transform.transforms = tuple(_only_movement(part, told) for part in transform.transforms)
    return transform


def _set_nearest(transform: Any) -> None:
    """Nearest neighbor in a transform and in those that it is made of."""
    for name in MODES:
        if isinstance(getattr(transform, name, None), (str, int)):
            setattr(transform, name, "nearest-exact" if isinstance(transform, (RandZoom, Zoom)) else "nearest")
    for part in vars(transform).values():
        if isinstance(part, Transform):
            _set_nearest(part)


def _name(transform: Any) -> str:
    return getattr(transform, "__qualname__", None) or type(transform).__name__


def describe_transform(transform: Any) -> str:
    """A transform in one line, the same in every process: its class and those of its settings that are numbers, strings
    or transforms themselves and not the class's defaults."""
    parts = _parts(transform)
    if parts:
        return f"{_name(transform)}([{', '.join(map(describe_transform, parts))}])"
    parameters = dict(inspect.signature(type(transform).__init__).parameters)
    settings = []
    for name, value in sorted(getattr(transform, "__dict__", {}).items()):
        text = None if name.startswith("_") or name in UNTOLD else _plain_text(value)
        default = parameters[name].default if name in parameters else None
        if text is not None and text != _plain_text(default):
            settings.append(f"{name}={text}")
    return f"{_name(transform)}({', '.join(settings)})"


def _plain_text(value: Any) -> str | None:
    """A setting as text; None for what is no setting."""
    if isinstance(value, str):
        return repr(str(value))  # also of an enumeration
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        texts = [_plain_text(one) for one in value]
        return None if None in texts else f"({', '.join(map(str, texts))}{',' if len(texts) == 1 else ''})"
    if isinstance(value, (Transform, Randomizable)):
        return describe_transform(value)
    return None
