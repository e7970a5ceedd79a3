# SPDX-License-Identifier: Apache-2.0
"""The function under attack, and everything that must be known about it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from monai_adversarial.models.doubts import warn_once
from monai_adversarial.models.read_intensity import ReadIntensity, UnknownIntensity, map_of_batch
from monai_adversarial.utils.intensity import IntensityMap, as_intensity_map
from monai_adversarial.utils.modules import describe_callable
from monai_adversarial.utils.precision import PRECISIONS
from monai_adversarial.utils.scene import IMAGE_UNITS
from monai_adversarial.utils.stored_grid import StoredGrid
from monai_adversarial.utils.validation import check_choice, check_count, check_flag

__all__ = ["ACTIVATIONS", "OUTPUT_VALUES", "TASKS", "AttackedModel"]

ACTIVATIONS = ("softmax", "sigmoid")
OUTPUT_VALUES = ("logits", "probabilities")
# Longer lists of class names fill the line that says what was attacked.
MOST_SHOWN_NAMES = 4
TASKS = ("segmentation", "classification")


class AttackedModel:
    """A network as it is used: behind its inferer and intensity map, with what its answer means.

    It is said once and is the same everywhere: ``attack(model, image, label)``, ``Adv*`` transforms,
    ``PrepareBatchAdversarial``, handlers and studies. A bare network is wrapped with these defaults. An attack keeps
    what is the attacker's: budget, objective, search, steps, seed.

    >>> import torch
    >>> from monai.networks.nets import UNet
    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.models import AttackedModel
    >>> network = UNet(3, 1, 2, channels=(4, 8), strides=(2,))
    >>> window = {"a_min": -160, "a_max": 240, "b_min": 0, "b_max": 1, "clip": True}
    >>> model = AttackedModel(network, intensity=window, image_units="HU", class_names=["background", "spleen"])
    >>> ct = torch.linspace(-100, 200, 16**3).reshape(1, 1, 16, 16, 16)
    >>> result = PGD(8, "HU", steps=1)(model, ct)
    >>> model.found_classes, model.found_task, model.found_output_values
    (2, 'segmentation', 'logits')

    Args:
        network: ``torch.nn.Module`` or differentiable callable from (batch, channel, spatial...) to (batch, class,
            spatial...) (segmentation) or (batch, class) (classification).
        inferer: MONAI inferer, called as ``inferer(image, network)``; None calls the network on the whole image.
            Gradients go through ``SlidingWindowInferer`` exactly, in the memory of one batch of windows.
        intensity: map from HU to the network's values: ``IntensityMap``, MONAI's ``ScaleIntensityRange`` or
            ``NormalizeIntensity`` with fixed statistics, a mapping of ``a_min, a_max, b_min, b_max, clip``, or what
            ``read_intensity`` read from the pipeline, which may be another map for each image. None: the network takes
            images as they are.
        image_units: ``"HU"``: images come in HU and ``intensity`` is applied inside the attacked function;
            ``"network"``: images come in the network's values and ``intensity`` only converts budgets. None:
            ``"network"`` with a map; without one the units of the attack's budget.
        round_to_integer: images are stored as whole numbers (integer HU), so that adversarial images are rounded to
            them, inside the budget; needs ``image_units="HU"``.
        stored_grid: the values in HU that an image's file can hold (``data.saving.stored_grid`` reads them), to which
            adversarial images are rounded, inside the budget and the range of the file's type, instead of to whole
            numbers; needs ``image_units="HU"``.
        image_channels: the input channels that are image; the others are guidance (clicks, prior masks) and stay as
            they are. A number is that many first channels; a negative one all but that many last channels. None: all
            are image.
        output: index, key or callable that picks the attacked tensor from what the network returns; None for a tensor
            and for the first of several resolutions.
        task: ``"segmentation"`` (one answer per voxel) or ``"classification"`` (one answer per image). None: seen from
            the shape of the first answer. A wrong claim is refused there.
        output_values: ``"logits"`` or ``"probabilities"`` (a network that ends in softmax or sigmoid). None: seen on
            the first batch. A wrong claim is refused there.
        activation: ``"softmax"`` (exclusive classes) or ``"sigmoid"`` (independent channels). None: sigmoid for one
            output channel, softmax otherwise, unless the answer or the label shows that channels overlap.
        class_names: names of the output channels (with softmax the background first), or a mapping of channel to
            name, of which the named ones are scored; None for ``class_1``, ``class_2``, ... by the number of the
            channel (from ``class_0`` where channels overlap). The classes of a classifier have no background.
        scored_classes: channels or names of the classes that scores count; None for all foreground classes. The
            exclusive classes of a classifier are always all scored.
        ignore_index: value of label voxels (of a classifier: of images) that count in no objective and no score, for
            example 255 or -1.
        network_args: further positional inputs of the network, after the image.
        network_kwargs: further keyword inputs of the network.
        precision: arithmetic of the network in the attack's steps: ``"auto"`` (bfloat16 where the hardware computes
            in it, float32 elsewhere), ``"float32"``, ``"bfloat16"`` or ``"float16"``. Perturbation and objective stay
            in float32.
        scoring_precision: arithmetic of clean predictions and of scores: what the network is deployed in.
        checkpoint_layers: layers are run again in the backward pass, so that a step needs about three times the memory
            of the network's prediction however deep it is; gradients are the same to the bit. None: where the graph
            would take more than a third of the memory that is free. Not for compiled and TorchScript networks.
        compile_network: run the network through ``torch.compile`` (a slow first call, faster steps).
        facts: sentences that say where the above was read, in reports.

    Raises:
        TypeError, ValueError: for an argument that does not fit, in one sentence.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        inferer: Callable[..., Any] | None = None,
        *,
        intensity: Any = None,
        image_units: str | None = None,
        round_to_integer: bool = False,
        stored_grid: StoredGrid | None = None,
        image_channels: Sequence[int] | int | None = None,
        output: Any = None,
        task: str | None = None,
        output_values: str | None = None,
        activation: str | None = None,
        class_names: Sequence[str] | Mapping[Any, str] | None = None,
        scored_classes: Sequence[int | str] | None = None,
        ignore_index: int | None = None,
        network_args: Sequence[Any] = (),
        network_kwargs: Mapping[str, Any] | None = None,
        precision: str = "auto",
        scoring_precision: str = "float32",
        checkpoint_layers: bool | None = None,
        compile_network: bool = False,
        facts: Sequence[str] = (),
    ) -> None:
        if not callable(network):
            raise TypeError(f"network must be a torch.nn.Module or a callable, got {type(network).__name__}.")
        if inferer is not None and not callable(inferer):
            raise TypeError(f"inferer must be a MONAI inferer or None, got {type(inferer).__name__}.")
        self.network, self.inferer = network, inferer
        self.intensity: IntensityMap | ReadIntensity | None = (
            intensity if isinstance(intensity, ReadIntensity) else as_intensity_map(intensity)
        )
        self.image_units = None if image_units is None else check_choice("image_units", image_units, IMAGE_UNITS)
        if self.image_units is None and self.intensity is not None:
            self.image_units = "network"
        if isinstance(self.intensity, ReadIntensity) and self.image_units == "HU" and self.intensity.exact is None:
            raise ValueError(
                "image_units='HU' needs an intensity map that is known before the images are, but it is "
                f"{self.intensity.text}: pass image_units='network' and images that went through the pipeline."
            )
        self.round_to_integer = check_flag("round_to_integer", round_to_integer)
        if self.round_to_integer and self.image_units != "HU":
            raise ValueError("round_to_integer needs images in HU: pass image_units='HU'.")
        if stored_grid is not None and not isinstance(stored_grid, StoredGrid):
            raise TypeError(f"stored_grid must be a StoredGrid or None, got {type(stored_grid).__name__}.")
        if stored_grid is not None and self.image_units != "HU":
            raise ValueError("stored_grid needs images in HU: pass image_units='HU'.")
        self.stored_grid = stored_grid
        self.image_channels = _check_channels(image_channels)
        self.output = output
        self.task = None if task is None else check_choice("task", task, TASKS)
        self.output_values = (
            None if output_values is None else check_choice("output_values", output_values, OUTPUT_VALUES)
        )
        self.activation = None if activation is None else check_choice("activation", activation, ACTIVATIONS)
        if isinstance(class_names, str):
            raise TypeError(f"class_names must be a list of names or a mapping, got the string {class_names!r}.")
        self.class_names = class_names
        self.scored_classes = None if scored_classes is None else tuple(scored_classes)
        if ignore_index is not None and (isinstance(ignore_index, bool) or not isinstance(ignore_index, int)):
            raise TypeError(f"ignore_index must be an integer label value or None, got {ignore_index!r}.")
        self.ignore_index = ignore_index
        self.network_args = tuple(network_args)
        self.network_kwargs = dict(network_kwargs or {})
        self.precision = check_choice("precision", precision, PRECISIONS)
        self.scoring_precision = check_choice("scoring_precision", scoring_precision, PRECISIONS)
        self.checkpoint_layers = (
            None if checkpoint_layers is None else check_flag("checkpoint_layers", checkpoint_layers)
        )
        self.compile_network = check_flag("compile_network", compile_network)
        self.facts = tuple(facts)
        # What the first batch has shown.
        self._found: dict[str, Any] = {"output_values": None, "activation": None, "looks": []}

    @property
    def stored(self) -> StoredGrid | None:
        """The values that images are stored in; None for any floating point value."""
        return self.stored_grid or (StoredGrid() if self.round_to_integer else None)

    @property
    def was_read(self) -> bool:
        """Whether it was read from an engine or the parts of a pipeline."""
        return bool(self.facts) and self.facts[0].startswith("attacks `")

    @property
    def found_task(self) -> str | None:
        """``"segmentation"`` or ``"classification"``: as told, or as seen on the first batch; None before."""
        return self.task or self._found.get("task")

    @found_task.setter
    def found_task(self, task: str) -> None:
        self._found["task"] = task

    @property
    def classifies(self) -> bool:
        """Whether the network is known to give one answer per image."""
        return self.found_task == "classification"

    @property
    def found_output_values(self) -> str | None:
        """``"logits"`` or ``"probabilities"`` as seen on the first batch; None before."""
        return self._found["output_values"]

    @found_output_values.setter
    def found_output_values(self, values: str) -> None:
        self._found["output_values"] = values

    @property
    def found_activation(self) -> str | None:
        """Softmax or sigmoid as seen on the first batch of a network that returns probabilities."""
        return self._found["activation"]

    @found_activation.setter
    def found_activation(self, activation: str) -> None:
        self._found["activation"] = activation

    @property
    def found_final_activation(self) -> str | None:
        """The softmax or sigmoid that the network's answer was seen to come from, so that it can be left out."""
        return self._found.get("final_activation")

    @found_final_activation.setter
    def found_final_activation(self, activation: str | None) -> None:
        self._found["final_activation"] = activation

    @property
    def found_classes(self) -> int | None:
        """Number of the network's output channels as seen on the first batch; None before."""
        return self._found.get("classes")

    @found_classes.setter
    def found_classes(self, classes: int) -> None:
        self._found["classes"] = classes

    @property
    def graph_sizes(self) -> dict[Any, float]:
        """Bytes that autograd keeps of the network per input element, by arithmetic, as measured so far."""
        return self._found.setdefault("graph_sizes", {})

    @property
    def findings(self) -> tuple[str, ...]:
        """``facts``, and what the first batch has shown of the output's values."""
        if self.found_output_values != "probabilities":
            return self.facts
        kind = self.found_final_activation
        how = f"what goes into its final {kind}" if kind else "their logarithm, as no final activation was found"
        return (*self.facts, f"the network returns probabilities: attacked is {how}")

    @property
    def _look(self) -> tuple[int, dict[str, Any]]:
        """Number and findings of this network behind this inferer and map. Models that are made of each other share
        what they know of the network, and not what was looked at of it: another purifier is another doubt."""
        looks, settings = self._found["looks"], (self.image_units, self.image_channels, self.ignore_index)
        for number, (inferer, intensity, others, found) in enumerate(looks):
            if inferer is self.inferer and intensity is self.intensity and others == settings:
                return number, found
        looks.append((self.inferer, self.intensity, settings, {}))
        return len(looks) - 1, looks[-1][-1]

    def warn_once(self, topic: str, sentence: str) -> None:
        """Warn about the network's input or answer, once behind each inferer and map.

        Args:
            topic: short name of the doubt.
            sentence: what is said.
        """
        number = self._look[0]
        warn_once(self.network, f"{topic} {number}" if number else topic, sentence, stacklevel=4)

    @property
    def found_random(self) -> bool:
        """Whether a clean pass was seen to take random numbers, as active dropout does."""
        return bool(self._look[1].get("random"))

    @found_random.setter
    def found_random(self, random: bool) -> None:
        self._look[1]["random"] = random

    @property
    def draws_itself(self) -> bool:
        """Whether generators that network or inferer hold were used in the first batch's clean pass."""
        return bool(self._look[1].get("draws_itself"))

    @draws_itself.setter
    def draws_itself(self, draws: bool) -> None:
        self._look[1]["draws_itself"] = draws

    @property
    def frozen_batches(self) -> int:
        """Batches in which voxels without a gradient were changed, to see whether they matter."""
        return int(self._look[1].get("frozen_batches", 0))

    @frozen_batches.setter
    def frozen_batches(self, count: int) -> None:
        self._look[1]["frozen_batches"] = count

    @property
    def checked(self) -> bool:
        """Whether a first batch was looked at: what there is to say about it was said."""
        return bool(self._look[1].get("checked"))

    @checked.setter
    def checked(self, done: bool) -> None:
        self._look[1]["checked"] = done

    @classmethod
    def from_engine(cls, engine: Any, image_key: str = "image", **told: Any) -> AttackedModel:
        """Read the model from a live MONAI engine.

        Network and inferer are the engine's own. The intensity map and guidance channels are read from the transform
        of its dataset, softmax or sigmoid from its postprocessing or loss, the scoring precision from ``amp``. Each
        finding is a sentence in ``facts``.

        Args:
            engine: ``SupervisedEvaluator`` or ``SupervisedTrainer``.
            image_key: where the image is in the dataset's items.
            told: further arguments of ``AttackedModel``, for what cannot be read.

        Raises:
            TypeError: for an engine whose task is not one image and one network, in one sentence.
            ValueError: where what is told contradicts what was read; the sentence shows both.
        """
        from monai_adversarial.models.from_engine import read_engine

        return cls(**read_engine(engine, image_key, **told))

    @classmethod
    def from_evaluator(cls, evaluator: Any, image_key: str = "image", **told: Any) -> AttackedModel:
        """The same as ``from_engine``."""
        return cls.from_engine(evaluator, image_key, **told)

    @classmethod
    def from_parts(
        cls,
        network: Callable[..., Any],
        inferer: Callable[..., Any] | None = None,
        preprocessing: Any = None,
        postprocessing: Any = None,
        *,
        loss: Any = None,
        image_key: str = "image",
        **told: Any,
    ) -> AttackedModel:
        """Read the model from the parts of a pipeline, where there is no engine.

        Args:
            network, inferer: what is attacked.
            preprocessing: transform that makes what the network sees: intensity map and guidance channels.
            postprocessing: transform of the network's answer: softmax or sigmoid.
            loss: loss that the network was trained with, where the postprocessing does not say.
            image_key: where the image is in the items of ``preprocessing``.
            told: further arguments of ``AttackedModel``.

        Raises:
            ValueError: where what is told contradicts what was read; the sentence shows both.
        """
        from monai_adversarial.models.from_engine import read_parts

        return cls(
            **read_parts(network, inferer, preprocessing, postprocessing, loss=loss, image_key=image_key, **told)
        )

    @classmethod
    def wrap(cls, model: Any) -> AttackedModel:
        """The model itself, or a bare network with defaults.

        Raises:
            TypeError: for something that cannot be called.
        """
        return model if isinstance(model, AttackedModel) else cls(model)

    def replace(self, **changes: Any) -> AttackedModel:
        """The same model with other arguments.

        Raises:
            TypeError: for an argument that the model does not have.
        """
        given = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        unknown = [name for name in changes if name not in given]
        if unknown:
            raise TypeError(f"an AttackedModel has no {unknown[0]!r}: it has {', '.join(given)}.")
        made = type(self)(**{**given, **changes})
        if not {"network", "output", "task", "output_values", "activation"} & set(changes):
            made._found = self._found
        return made

    def with_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> AttackedModel:
        """The same model with the further inputs of one batch; itself where there are none."""
        if not args and not kwargs:
            return self
        made = copy.copy(self)
        made.network_args = (*self.network_args, *args)
        made.network_kwargs = {**self.network_kwargs, **kwargs}
        return made

    def activation_of(self, classes: int) -> str:
        """The given activation; where there is none, sigmoid for one output channel and softmax for more."""
        return self.activation or self.found_activation or ("sigmoid" if classes == 1 else "softmax")

    def units_for(self, budget_units: str | None) -> str:
        """Units in which images come, for a budget in ``budget_units``: a bare network takes images as they are."""
        return self.image_units or ("HU" if budget_units == "HU" else "network")

    def intensity_for(self, image: torch.Tensor) -> IntensityMap | None:
        """The intensity map of one batch, for its image channels and on its device; None where there is none.

        Args:
            image: the whole clean batch; a ``MetaTensor`` where the map depends on the image.
        """
        return self.intensity_and_doubt(image)[0]

    def intensity_and_doubt(self, image: torch.Tensor) -> tuple[IntensityMap | None, str | None]:
        """As :meth:`intensity_for`, with a sentence that says why there is no map, if one was to be read."""
        found = self.intensity
        if isinstance(found, ReadIntensity):
            try:
                found = map_of_batch(found, image)
            except UnknownIntensity as error:
                return None, str(error)
        if found is None or found.is_uniform:
            return found, None
        channels = self.channels_in(image)
        columns = max(int(v.shape[1]) for v in found.values if isinstance(v, torch.Tensor))
        expected = image.shape[1] if channels is None else len(channels)
        if channels is not None and columns == image.shape[1]:
            found = found.channels(channels)
        elif columns not in (1, expected):
            return None, f"the intensity map has {columns} channels and the image {expected}"
        return found.to(image.device), None

    def channels_in(self, image: torch.Tensor) -> tuple[int, ...] | None:
        """Where the image channels sit among the input channels; None where they are all of them.

        Raises:
            ValueError: where ``image_channels`` names one that the image does not have, or leaves none.
        """
        named, count = self.image_channels, image.shape[1]
        if named is None:
            return None
        if isinstance(named, int):
            if not -count < named <= count:
                what = f"the first {named}" if named > 0 else f"all but the last {-named}"
                raise ValueError(f"image_channels={named} means {what} channels, but the image has {count}.")
            return tuple(range(named if named > 0 else count + named))
        if max(named) >= count:
            raise ValueError(f"image_channels must name channels 0 to {count - 1} of the image, got {list(named)}.")
        return named

    def image_part(self, image: torch.Tensor) -> torch.Tensor:
        """The channels that are image, (batch, channel, spatial...).

        Raises:
            ValueError: see ``channels_in``.
        """
        channels = self.channels_in(image)
        return image if channels is None else image[:, list(channels)]

    def whole_image(self, part: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """``image`` with its image channels replaced by ``part``."""
        channels = self.channels_in(image)
        if channels is None:
            return part
        pieces = list(image.split(1, dim=1))
        for position, channel in enumerate(channels):
            pieces[channel] = part[:, position : position + 1]
        return torch.cat(pieces, dim=1)

    def __repr__(self) -> str:
        parts = [describe_callable(self.network)]
        if self.inferer is not None:
            parts.append(describe_callable(self.inferer))
        hidden = {"network", "inferer", "facts"}
        plain = {"precision": "auto", "scoring_precision": "float32"}
        for name, value in vars(self).items():
            if name in hidden or name.startswith("_") or value is None or value is False:
                continue
            if isinstance(value, (tuple, dict, str)) and value == plain.get(name, type(value)()):
                continue
            long = name == "class_names" and len(value) > MOST_SHOWN_NAMES
            parts.append(f"{name}=<{len(value)} names>" if long else f"{name}={_shown(value)}")
        return f"AttackedModel({', '.join(parts)})"


def _shown(value: Any) -> str:
    """A value in one short line: tensors and networks by their kind."""
    if isinstance(value, torch.Tensor):
        return f"<tensor {tuple(value.shape)}>"
    if isinstance(value, (IntensityMap, ReadIntensity)):
        return f"<{value}>"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_shown(part)}" for key, part in value.items()) + "}"
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return f"({', '.join(map(_shown, value))}{',' if len(value) == 1 else ''})"
    return describe_callable(value) if callable(value) else repr(value)


def _check_channels(channels: Sequence[int] | int | None) -> tuple[int, ...] | int | None:
    """``image_channels`` as it is kept."""
    if channels is None:
        return None
    if isinstance(channels, int):
        if isinstance(channels, bool) or channels == 0:
            raise ValueError(f"image_channels must name at least one input channel, got {channels!r}.")
        return channels
    named = tuple(check_count("image_channels", channel, minimum=0) for channel in channels)
    if len(set(named)) != len(named or (0, 0)):
        raise ValueError(f"image_channels must name different input channels, got {list(named)}.")
    return named
