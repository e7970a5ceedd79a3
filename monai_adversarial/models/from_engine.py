# SPDX-License-Identifier: Apache-2.0
"""The model under attack, read from a live engine or from the parts of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.engines import SupervisedTrainer
from monai.transforms import AsDiscreted
from monai.utils import CommonKeys

from monai_adversarial.models.doubts import warn_once
from monai_adversarial.models.engine_parts import (
    check_engine,
    postprocessing_of,
    preprocessing_of,
    scoring_precision_of,
    steps_of,
)
from monai_adversarial.models.guidance import image_channels_of
from monai_adversarial.models.pipeline_intensity import AS_TOLD, intensity_of, record_maps
from monai_adversarial.models.read_postprocessing import (
    activation_of_loss,
    activation_of_postprocessing,
    classes_of_postprocessing,
    custom_reading,
)
from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.dictionary import Purifierd
from monai_adversarial.utils.modules import bare_network, describe_callable

__all__ = ["read_engine", "read_parts"]

#: modes of MONAI's resampling that average neighbors; numbers are orders of splines
AVERAGING = ("linear", "bilinear", "trilinear", "bicubic", "area", "1", "2", "3", "4", "5")


def read_engine(engine: Any, image_key: str = CommonKeys.IMAGE, **told: Any) -> dict[str, Any]:
    """Arguments of ``AttackedModel``; see ``AttackedModel.from_engine``."""
    check_engine(engine)
    if not hasattr(engine, "network"):
        raise ValueError("the engine is not complete yet: read it after it was made, or when it starts.")
    record_maps(engine, image_key)
    told.setdefault("scoring_precision", scoring_precision_of(engine))
    return read_parts(
        bare_network(engine.network),
        engine.inferer,
        preprocessing_of(engine),
        postprocessing_of(engine),
        loss=getattr(engine, "loss_function", None),
        image_key=image_key,
        training=isinstance(engine, SupervisedTrainer),
        **told,
    )


def read_parts(
    network: Callable[..., Any],
    inferer: Callable[..., Any] | None = None,
    preprocessing: Any = None,
    postprocessing: Any = None,
    *,
    loss: Any = None,
    image_key: str = CommonKeys.IMAGE,
    training: bool = False,
    **told: Any,
) -> dict[str, Any]:
    """Arguments of ``AttackedModel``; see ``AttackedModel.from_parts``. In a training a doubt is a warning."""
    behind = "" if inferer is None else f" behind `{describe_callable(inferer)}`"
    facts = [f"attacks `{describe_callable(network)}`{behind}"]
    facts += _read_intensity(preprocessing, image_key, told)
    _say_purified(network, preprocessing)
    _say_interpolated_label(network, preprocessing)
    facts += _read_activation(network, postprocessing, loss, told, training)
    facts += _read_guidance(preprocessing, image_key, told)
    facts += _read_ignored(loss, told)
    classes = _declared_classes(network) or classes_of_postprocessing(postprocessing)
    if classes is not None:
        facts.append(f"{classes} classes" if classes > 1 else "1 output channel")
    if told.get("scoring_precision", "float32") != "float32":
        facts.append(f"scored in {told['scoring_precision']}")
    told["facts"] = (*facts, *told.get("facts", ()))
    return {"network": network, "inferer": inferer, **told}


def _say_purified(network: Any, preprocessing: Any) -> None:
    """Warn where a purifier comes before the attack: what the attack leaves then says nothing about it."""
    for number, step in enumerate(steps_of(preprocessing)):
        if isinstance(step, (Purifier, Purifierd)):
            form = step.purifier if isinstance(step, Purifierd) else step
            warn_once(
                network,
                "purified",
                f"`preprocessing#{number}` ({type(step).__name__}) purifies images before they are attacked, so that "
                "no adversarial change meets it and the scores say nothing about it: to attack it, put it around the "
                f"inferer, PurifiedInferer(inferer, {type(form).__name__}(intensity=...)).",
            )


def _say_interpolated_label(network: Any, preprocessing: Any) -> None:
    """Warn where class numbers are averaged: between two classes lies the number of a third."""
    steps = [step for step in steps_of(preprocessing) if CommonKeys.LABEL in getattr(step, "keys", ())]
    if any(isinstance(step, AsDiscreted) for step in steps):  # averages of one-hot labels are decided there
        return
    for step in steps:
        modes = getattr(step, "mode", None)
        if not isinstance(modes, (list, tuple)) or len(modes) != len(step.keys):
            continue
        mode = modes[list(step.keys).index(CommonKeys.LABEL)]
        named = str(getattr(mode, "value", mode))
        if named in AVERAGING:
            warn_once(
                network,
                "interpolated",
                f"{type(step).__name__} resamples {CommonKeys.LABEL.value!r} by mode={named!r}: "
                "between two classes this makes the number of a third, or fractions, and scores compare with another "
                "segmentation; give the label mode='nearest'.",
            )


def _declared_classes(network: Any) -> int | None:
    count = getattr(network, "out_channels", None)
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def _read_intensity(preprocessing: Any, image_key: str, told: dict[str, Any]) -> list[str]:
    found, fact = intensity_of(preprocessing, image_key, told.get("intensity"))
    told["intensity"] = found
    if fact is None:
        return []
    if found is None:
        # Values that some map has scaled are no HU.
        told.setdefault("image_units", "network")
    elif told.get("image_units") == "HU" and not fact.endswith(AS_TOLD):
        raise ValueError(
            f"image_units='HU' was told, but the network gets {fact}: images come in the network's values; leave "
            "image_units out."
        )
    return [fact]


def _read_activation(network: Any, postprocessing: Any, loss: Any, told: dict[str, Any], training: bool) -> list[str]:
    found = activation_of_postprocessing(postprocessing) or activation_of_loss(loss)
    given = told.get("activation")
    own = custom_reading(postprocessing)
    if found is None and given is None and own is not None and not training:
        raise ValueError(
            f"{own} reads the network's answer in its own way, and nothing says that its channels are classes: only "
            "segmentations by softmax or sigmoid are attacked; pass activation= if this is one."
        )
    if found is None and given is None and steps_of(postprocessing):
        warn_once(
            network,
            "activation",
            "neither the postprocessing nor a loss says whether the network's answer is read by softmax or sigmoid: "
            "several channels are taken for exclusive classes. Pass activation=, and check that the task is a "
            "segmentation.",
        )
        return ["softmax or sigmoid not said by the pipeline"]
    if found is None:
        return [] if given is None else [f"{given} as told"]
    if given is not None and given != found[0]:
        raise ValueError(
            f"activation={given!r} was told, but {found[1]} says {found[0]!r}: leave activation out, or correct the "
            "pipeline."
        )
    told["activation"] = found[0]
    return [f"{found[0]} from {found[1]}"]


def _read_ignored(loss: Any, told: dict[str, Any]) -> list[str]:
    """The label value that a loss leaves out, such as ``CrossEntropyLoss(ignore_index=255)``; torch's default of -100
    stands for none."""
    value = getattr(loss, "ignore_index", None)
    if isinstance(value, bool) or not isinstance(value, int) or value == -100:
        return []
    given = told.get("ignore_index")
    if given is not None and given != value:
        raise ValueError(
            f"ignore_index={given} was told, but the loss ({type(loss).__name__}) ignores {value}: leave ignore_index "
            "out, or correct the loss."
        )
    told["ignore_index"] = value
    return [f"label value {value} is ignored, as in the loss"]


def _read_guidance(preprocessing: Any, image_key: str, told: dict[str, Any]) -> list[str]:
    found = image_channels_of(preprocessing, image_key)
    given = told.get("image_channels")
    if found is None:
        return [] if given is None else [f"image channels {given} as told"]
    count, places = found
    if count > 0:
        said = "the first input channel is image" if count == 1 else f"the first {count} input channels are image"
    else:
        said = "the last input channel is guidance" if count == -1 else f"the last {-count} input channels are guidance"
    if isinstance(given, int) or given is None:
        agrees = given in (None, count)
    else:  # what is added in the end cannot be told from a list of channels before the first batch
        agrees = count < 0 or [*given] == [*range(count)]
    if not agrees:
        raise ValueError(f"image_channels={given!r} was told, but {said} by {places}: leave image_channels out.")
    told["image_channels"] = count if given is None else given
    return [f"{said}, from {places}"]
