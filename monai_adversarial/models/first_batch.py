# SPDX-License-Identifier: Apache-2.0
"""What the first batch shows of a model: its task, an axis too few, a label that does not fit, a
network that is random."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from monai_adversarial.metrics.clean_score import low_clean_caution
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.doubts import warn_once
from monai_adversarial.models.output_values import SURELY_ABSENT, OutputSummary
from monai_adversarial.utils.modules import modules_of, unwrap
from monai_adversarial.utils.scene import spacing_of
from monai_adversarial.utils.slabs import slabs
from monai_adversarial.utils.validation import check_class_label, check_label, check_logits, is_class_label

__all__ = [
    "background_reason",
    "check_answer",
    "check_background",
    "check_classes_fit",
    "check_clean_score",
    "check_exclusive",
    "check_ignored",
    "check_label_fits",
    "check_label_shape",
    "check_same_grid",
    "check_told_spacing",
    "check_trained",
    "random_state",
    "refuse_boxes",
    "say_clock",
    "say_counted",
    "say_kept",
    "say_random",
    "say_seeded",
    "task_of_answer",
    "unscaled_values",
    "untrained_reason",
]

#: a clean Dice below this share of what the volumes of label and prediction allow is no overlap to speak of
LEAST_SHARE = 0.05
#: volumes that allow less say nothing: a network that finds almost nothing, or an organ at the edge of a crop
LEAST_ALLOWED = 0.1
#: Dice from which a label value is taken to mean another class of the network
CLEARLY_THE_SAME = 0.5
#: and where the right class has voxels in common too: large masks have much in common by chance
SURELY_THE_SAME = 0.8
#: and by which it exceeds that of the class itself
CLEARLY_BETTER = 0.3
#: mean clean Dice of a batch below which there is next to nothing to lose; random labels have more
LEAST_CLEAN = 0.1
#: range of an image's values above which no map has scaled it: networks see 0..1, or some standard deviations
UNSCALED = 50.0
#: share of the voxels above which a channel is taken for the background
MOSTLY = 0.5
#: layers whose scale and shift are made as 1 and 0
NORMALIZATIONS = (_NormBase, torch.nn.GroupNorm, torch.nn.LayerNorm)
#: what torch makes every PReLU with
PRELU_SLOPE = 0.25
#: images of which at least one is classified as labeled, or the label does not belong to the network
LEAST_IMAGES = 8
#: relative difference of voxel sizes that no rounding makes
OTHER_SPACING = 0.01
#: attributes that are named
MOST_KEPT = 3
#: Dice by which the same image may score higher when a network is asked later
ROOM = 0.02


def refuse_boxes(raw: Any) -> None:
    """Refuse what a detector returns.

    Raises:
        TypeError: for a dictionary, or a list of them, that holds boxes.
    """
    first = raw[0] if isinstance(raw, (list, tuple)) and raw else raw
    if isinstance(first, Mapping) and any("box" in str(name) for name in first):
        raise TypeError(
            "the network returns boxes, as a detector does: only segmentation networks and classifiers are attacked."
        )


def task_of_answer(raw: torch.Tensor, image: torch.Tensor) -> str | None:
    """``"segmentation"`` for an answer on the image's grid, ``"classification"`` for one answer per image: (batch,
    class), (batch,) or (batch, class, 1, ...); None for neither.

    Args:
        raw: what the network returned.
        image: its input, (batch, channel, spatial...).
    """
    if raw.ndim == 0 or raw.shape[0] != image.shape[0]:
        return None
    if raw.ndim == image.ndim and raw.shape[2:] == image.shape[2:]:
        return "segmentation"
    pooled = raw.ndim == image.ndim and all(size == 1 for size in raw.shape[2:])
    return "classification" if raw.ndim <= 2 or pooled else None


def check_answer(raw: Any, image: torch.Tensor, classifies: bool = False) -> None:
    """Refuse what is no segmentation of the image, or no answer about it, before any work.

    Args:
        raw: what the network returned; of a classifier (batch, class, 1).
        image: its input.
        classifies: it is one answer per image.

    Raises:
        TypeError: for several tensors or integers.
        ValueError: for another grid.
    """
    check_logits(raw, image[:, :, :1].flatten(2)[..., :1] if classifies else image)


def check_label_shape(model: AttackedModel, label: Any, image: torch.Tensor) -> None:
    """Refuse a label that cannot fit the image. Before the first answer has shown the task, one class per image may
    still be right.

    Args:
        model: what is attacked.
        label: tensor.
        image: (batch, channel, spatial...).

    Raises:
        LabelMisfit: for another shape, NaN, or fractions.
    """
    unknown = model.found_task is None
    if model.classifies or (unknown and is_class_label(label, image)):
        check_class_label(label, image)
    else:
        check_label(label, image)


def check_same_grid(model: AttackedModel, image: Any, label: Any) -> None:
    """Warn, once, where image and label say by their affines that their voxels do not lie on each other.

    An affine that is the identity says nothing: it is what MONAI gives to a tensor that came without one.

    Args:
        model: what is attacked.
        image, label: as they were handed over; only ``MetaTensor`` has an affine.
    """
    if not isinstance(image, MetaTensor) or not isinstance(label, MetaTensor) or image.ndim != label.ndim:
        return
    first, second = (torch.as_tensor(volume.affine).detach().cpu().double() for volume in (image, label))
    rank = image.ndim - 2
    if first.shape != second.shape or first.shape[-1] != rank + 1:
        return
    identity = torch.eye(rank + 1, dtype=torch.float64).expand_as(first)
    if any(not bool(torch.isfinite(one).all()) or torch.equal(one, identity) for one in (first, second)):
        return
    ends = torch.tensor([[0.0] * rank, [float(size - 1) for size in image.shape[2:]]], dtype=torch.float64)
    corners = torch.cat([ends, torch.ones(2, 1, dtype=torch.float64)], dim=1).T
    apart = float(((first - second) @ corners).norm(dim=-2).max())
    voxel = float(first[..., :rank, :rank].norm(dim=-2).min())
    if apart > voxel / 2:
        model.warn_once(
            "grid",
            f"the affines of image and label differ: voxels of the same index lie up to {apart:.3g} mm apart. The "
            "label is of another orientation, voxel size or place: bring both onto one grid (Orientationd, Spacingd, "
            "ResampleToMatchd), or the scores compare different places.",
        )


def check_told_spacing(model: AttackedModel, image: Any, spacing: Any) -> None:
    """Warn, once, where a voxel size is told that is not the one of the image's affine.

    An affine that is the identity says nothing: it is what MONAI gives to a tensor that came without one.

    Args:
        model: what is attacked.
        image: as it was handed over; only ``MetaTensor`` has an affine.
        spacing: mm along each axis, as it was told; None where nothing was.
    """
    if spacing is None or not isinstance(image, MetaTensor):
        return
    affine = torch.as_tensor(image.affine).detach().cpu().double()
    if torch.equal(affine, torch.eye(affine.shape[-1], dtype=torch.float64).expand_as(affine)):
        return
    told, read = spacing_of(image, spacing), spacing_of(image, required=False)
    if told is None or read is None or not bool(read.isfinite().all()):
        return
    apart = ((told - read).abs() > OTHER_SPACING * read).any(dim=1)
    if not bool(apart.any()):
        return
    first = int(apart.int().argmax())
    mine, theirs = (" x ".join(f"{length:.4g}" for length in table[first].tolist()) for table in (told, read))
    permuted = torch.allclose(told[first].sort().values, read[first].sort().values, rtol=OTHER_SPACING)
    order = "give it in the order of the array's axes" if permuted else "correct the affine"
    model.warn_once(
        "spacing",
        f"spacing is told as {mine} mm, but the image's affine says {theirs} mm: what is in mm is another budget; "
        f"leave spacing out, or {order}.",
    )


def check_classes_fit(model: AttackedModel, scores: torch.Tensor) -> None:
    """Warn where not one of many images is classified as labeled.

    Args:
        model: what is attacked.
        scores: share of each image's classes that are right, (batch,); NaN does not count.
    """
    known = scores[~scores.isnan()]
    if len(known) >= LEAST_IMAGES and not bool(known.any()):
        model.warn_once(
            "label",
            f"the label does not fit the network: none of {len(known)} images is classified as labeled. Check class "
            "numbers and weights: an attack has nothing to take from such a network.",
        )


def check_clean_score(model: AttackedModel, scores: torch.Tensor, image: torch.Tensor) -> None:
    """Warn where there is next to nothing to lose; what ``check_label_fits`` has said already is not said again.

    Args:
        model: what is attacked.
        scores: mean Dice with the label of each clean sample, (batch,); NaN does not count.
        image: the clean images.
    """
    if float(scores.nanmean()) < LEAST_CLEAN:  # NaN is not
        caution = low_clean_caution(scores, unscaled_values(model, image))
        model.warn_once("label", f"{caution}; models.explain_clean_score compares.")


def unscaled_values(model: AttackedModel, image: torch.Tensor) -> str:
    """What the network sees where no map scales it and its values are far from those that networks are trained with;
    empty elsewhere.

    Args:
        model: what is attacked.
        image: the clean images, (batch, channel, spatial...).
    """
    lowest, highest = float(image.min()), float(image.max())
    if model.intensity is not None or highest - lowest < UNSCALED:
        return ""
    seen = f"the network sees values from {lowest:.4g} to {highest:.4g}, because its model has no intensity map"
    if lowest >= 0 and highest <= 255:
        return f"{seen}: divide gray values of 8 bits by 255, if it was trained with values from 0 to 1"
    return f"{seen}: pass intensity= with the window that it was trained with, and image_units='HU'"


def untrained_reason(model: AttackedModel) -> str:
    """Why the network looks as if nobody trained it, or its weights were not loaded. Empty where nothing says so.

    Every BatchNorm still has the statistics that it is made with. In a network without such statistics the scale and
    shift of every normalization, and the slope of every PReLU, still have the values that all networks begin with,
    which one step of an optimizer moves. A network without any of these layers shows no such sign.

    Args:
        model: what is attacked.
    """
    layers = [layer for network in modules_of(unwrap(model.network)) for layer in network.modules()]
    signs = [_statistics_as_made(layer) for layer in layers]
    what, known = "statistics", [sign for sign in signs if sign is not None]
    if not known:
        what, known = "weights", [sign for layer in layers if (sign := _weights_as_made(layer)) is not None]
    if not known or not all(known):
        return ""
    where = "BatchNorm" if what == "statistics" else "normalization and PReLU"
    return (
        f"the network's {len(known)} {where} layers hold the {what} that they are made with: it was never trained, or "
        "its weights were not loaded, and what an attack leaves of it is no robustness"
    )


def _statistics_as_made(layer: torch.nn.Module) -> bool | None:
    """Whether a BatchNorm never saw an image; None of layers without such statistics."""
    if not isinstance(layer, _BatchNorm) or layer.running_mean is None or layer.running_var is None:
        return None
    return not bool(layer.running_mean.any()) and bool((layer.running_var == 1).all())


def _weights_as_made(layer: torch.nn.Module) -> bool | None:
    """Whether the weights of a layer have their first values; None of layers whose first values are random, or that
    have no weights."""
    if isinstance(layer, torch.nn.PReLU):
        return bool((layer.weight == PRELU_SLOPE).all())
    if not isinstance(layer, NORMALIZATIONS) or layer.weight is None:
        return None
    shift = getattr(layer, "bias", None)
    return bool((layer.weight == 1).all()) and (shift is None or not bool(shift.any()))


def check_trained(model: AttackedModel) -> None:
    """Warn of a network that looks untrained (``untrained_reason``).

    Args:
        model: what is attacked.
    """
    reason = untrained_reason(model)
    if reason:
        warn_once(model.network, "untrained", f"{reason}.")


def background_reason(model: AttackedModel, share: float, scored: Sequence[int], whose: str = "the label") -> str:
    """Why the mean Dice flatters where independent channels (sigmoid) count the background as an organ, which nothing
    can take away; empty where they do not.

    Args:
        model: what is attacked; its channels are independent.
        share: of the voxels that channel 0 covers, from 0 to 1.
        scored: the channels that scores count.
        whose: what covers them.
    """
    named = model.class_names
    first = None if named is None else dict(named).get(0) if isinstance(named, Mapping) else list(named)[0]
    if 0 not in scored or len(scored) < 2 or (first is not None and not str(first).lower().startswith("background")):
        return ""
    if share <= MOSTLY:
        return ""
    return (
        "the network's channels are taken for independent ones (sigmoid), so that channel 0 counts as an organ, "
        f"but it is {share:.0%} of {whose}, as a background is: pass activation='softmax' for exclusive classes, "
        "or scored_classes= without it, or the mean Dice flatters"
    )


def check_ignored(model: AttackedModel, classes: int) -> None:
    """Warn where the value of label voxels that do not count is a class of the network.

    Args:
        model: what is attacked.
        classes: number of the network's output channels.
    """
    ignored = model.ignore_index
    if ignored is None or not 0 <= ignored < max(classes, 2):
        return
    what = (
        "the background: an organ that is invented there counts as no error"
        if ignored == 0
        else (f"the network's class {ignored}: nothing that happens to it counts as an error")
    )
    model.warn_once(
        "ignored",
        f"ignore_index is {ignored}, {what}, and scores flatter. It is the value of voxels that nobody labeled, such "
        "as 255; the background is no organ without it, and scored_classes= chooses organs.",
    )


def check_exclusive(model: AttackedModel, summary: OutputSummary) -> None:
    """Warn where nobody has said that the classes exclude each other, and most voxels have none.

    Logits of exclusive classes (softmax) are as high for the background as for an organ: the loss moves their
    differences. Of independent channels (sigmoid) all are low where nothing is found, and the highest says nothing.

    Args:
        model: what is attacked; its channels are taken for exclusive classes.
        summary: of the clean answer.
    """
    if model.activation is not None or model.found_output_values != "logits" or summary.channels < 2:
        return
    share = summary.share_of_nothing
    if share > MOSTLY:
        model.warn_once(
            "exclusive",
            f"activation is missing, and the {summary.channels} channels are taken for exclusive classes (softmax), "
            f"but in {share:.0%} of the voxels all of them are below {SURELY_ABSENT:g}, as independent channels are "
            "where nothing is found: pass activation='sigmoid' if they are, or 'softmax' to say that this is right.",
        )


def check_background(model: AttackedModel, label: torch.Tensor, scored: Sequence[int]) -> None:
    """Warn where the background counts as an organ (``background_reason``).

    Args:
        model: what is attacked.
        label: class map (batch, 1, spatial...), or masks (batch, class, spatial...).
        scored: the channels that scores count.
    """
    share = float((label[:, 0] > 0 if label.shape[1] > 1 else label[:, 0] == 0).float().mean())
    reason = background_reason(model, share, scored)
    if reason:
        model.warn_once("background", f"{reason}.")


def check_label_fits(
    model: AttackedModel, prediction: torch.Tensor, label: torch.Tensor, classes: int, activation: str
) -> None:
    """Warn where the label has hardly a voxel in common with the clean prediction although both have foreground, and
    where its values are other classes of the network.

    Args:
        model: what is attacked.
        prediction: class map (batch, 1, spatial...), or masks (batch, class, spatial...) for sigmoid.
        label: class map or masks.
        classes: number of the network's output channels.
        activation: ``"softmax"`` (class 0 is background) or ``"sigmoid"``.
    """
    if classes == 1:  # one sigmoid channel: two classes that exclude each other
        label, classes, activation = (label > 0).to(prediction.dtype), 2, "softmax"
    names = list(range(1 if activation == "softmax" else 0, classes))
    table, in_label, in_prediction = _overlaps(prediction, label, classes, activation)
    common, labeled, predicted = table[names][:, names], in_label[names], in_prediction[names]
    total = (labeled[:, None] + predicted[None, :]).clamp_min(1)
    own = (2 * common / total).diagonal()
    allowed = 2 * torch.minimum(labeled, predicted) / total.diagonal()
    present = (labeled > 0) & (predicted > 0) & (allowed >= LEAST_ALLOWED)
    apart = bool(present.any()) and not bool((own > LEAST_SHARE * allowed)[present].any())
    permuted = _permuted(table, in_label, in_prediction, names, CLEARLY_THE_SAME if apart else SURELY_THE_SAME)
    if not apart and not permuted:
        return
    # Without an overlap to speak of nothing is lost by saying how little; a swap alone has overlaps by chance.
    counted = present if bool(present.any()) else labeled > 0
    said = [f"{', '.join(permuted)}: label values or output channels are permuted"] if permuted else []
    if apart or not bool((own > SURELY_THE_SAME)[counted].any()):  # beside classes that fit, the others are named
        said.insert(
            0,
            f"the clean Dice is at most {float(own[counted].max()):.3f} where the volumes of label and prediction "
            f"allow {float(allowed[counted].max()):.3f}",
        )
    model.warn_once(
        "label",
        f"the label does not fit the network: {'; '.join(said)}. Check label values, orientation, grid and weights: an "
        "attack has nothing to take from such a segmentation.",
    )


def _permuted(
    table: torch.Tensor, labeled: torch.Tensor, predicted: torch.Tensor, names: list[int], least: float
) -> list[str]:
    """For each label value that is another class of the network, a sentence part that says which.

    The background counts as such a class where it is itself found in another one: a network that finds nothing answers
    background everywhere, which is no permutation.
    """
    dice = 2 * table / (labeled[:, None] + predicted[None, :]).clamp_min(1)

    def other(row: int) -> int | None:
        best = int(dice[row].argmax())
        clearly = float(dice[row, best]) > max(least, float(dice[row, row]) + CLEARLY_BETTER)
        return best if best != row and clearly else None

    found = []
    for row in (name for name in names if float(labeled[name]) > 0):
        best = other(row)
        if best is not None and (best in names or other(best) is not None):
            found.append(f"label value {row} is the network's class {best} (Dice {dice[row, best]:.2f})")
    return found


def _overlaps(
    prediction: torch.Tensor, label: torch.Tensor, classes: int, activation: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Voxels in common (label class, predicted class), and in each, on the CPU in float64."""
    if activation == "softmax":
        pairs = torch.zeros(classes**2, dtype=torch.int64, device=label.device)
        for where in slabs(label.shape[2:], label.shape[0]):
            box = (slice(None), slice(None), *where)
            index = label[box].argmax(dim=1) if label.shape[1] > 1 else label[box][:, 0].long()
            numbers = (index * classes).add_(prediction[box][:, 0])
            pairs += torch.bincount(numbers.flatten(), minlength=classes**2)
        common = pairs.view(classes, classes).cpu().double()
        return common, common.sum(dim=1), common.sum(dim=0)
    common = torch.zeros(classes, classes, dtype=torch.float64)
    labeled, predicted = torch.zeros(classes, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
    masks = label.shape[1] > 1
    for row in range(classes):
        true = label[:, row] > 0 if masks else label[:, 0] == row
        labeled[row], predicted[row] = float(true.sum()), float((prediction[:, row] > 0).sum())
        for column in range(classes):
            common[row, column] = float((true & (prediction[:, column] > 0)).sum())
    return common, labeled, predicted


def random_state(device: torch.device) -> tuple[torch.Tensor, ...]:
    """The state of the generators that networks draw from: torch's, as dropout does, NumPy's and Python's own."""
    # The old global generator, which networks of others still draw from.
    drawn = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    states = (
        torch.get_rng_state(),
        torch.tensor([*drawn["key"].tolist(), drawn["pos"]]),
        torch.tensor(random.getstate()[1]),
    )
    return (*states, torch.cuda.get_rng_state(device)) if device.type == "cuda" else states


def say_random(model: AttackedModel, share: float | None = None, purifier: bool = False) -> None:
    """Warn that the answer is random although the network is in evaluation mode.

    Args:
        model: what is attacked.
        share: of the voxels that two clean predictions disagree on, where it is known.
        purifier: it is a purifier that draws.
    """
    parts = "images' classes" if model.classifies else "voxels"
    differ = "" if share is None else f": two clean predictions differ in {share:.1%} of the {parts}"
    who = "a purifier draws random numbers"
    if not purifier:
        who = "the network draws random numbers in evaluation mode (dropout that stays active?)"
    model.warn_once(
        "random",
        f"{who}{differ}. An attack that sees one draw is weaker than one that averages: pass "
        "gradient=ExpectationOverTransformation(20), and read scores as those of one draw.",
    )


def say_kept(model: AttackedModel, names: Sequence[str]) -> None:
    """Warn of a network whose answer depends on what it was asked before.

    Args:
        model: what is attacked.
        names: of the attributes that changed when it was asked.
    """
    shown = ", ".join(names[:MOST_KEPT]) + (", ..." if len(names) > MOST_KEPT else "")
    model.warn_once(
        "kept",
        f"the network keeps something from call to call ({shown}) and answers an image otherwise when it has seen "
        "another one before: an attack, which shows it the clean image first, leaves a score that is too high. Let "
        "it answer each image by itself.",
    )


def say_counted(model: AttackedModel, names: Sequence[str], score: torch.Tensor, anew: torch.Tensor) -> None:
    """Warn of a network that answers the attacked image otherwise when it has been asked less often.

    Args:
        model: what is attacked.
        names: of the numbers that changed.
        score: of the attacked images, (batch,); NaN does not count.
        anew: the same of a network that counts anew.
    """
    flatters = (score - anew).nan_to_num(-1.0)
    if float(flatters.max()) <= ROOM:
        return
    worst = int(flatters.argmax())
    shown = ", ".join(names[:MOST_KEPT]) + (", ..." if len(names) > MOST_KEPT else "")
    model.warn_once(
        "counted",
        f"the network's answer depends on how often it was asked ({shown}): the attacked image scores "
        f"{float(score[worst]):.3f}, and {float(anew[worst]):.3f} where it is asked at the beginning. What was "
        "attacked is not what was scored, and the score is too high.",
    )


def say_clock(model: AttackedModel, names: Sequence[str], share: float) -> None:
    """Warn of a network that answers the clean image otherwise after an attack than before it, and asks for the time.

    Args:
        model: what is attacked.
        names: of the functions that do.
        share: of the voxels that the two clean predictions disagree on.
    """
    parts = "images' classes" if model.classifies else "voxels"
    shown = ", ".join(names[:MOST_KEPT]) + (", ..." if len(names) > MOST_KEPT else "")
    model.warn_once(
        "clock",
        f"the network's answer depends on the time ({shown}): the clean predictions before and after the attack differ "
        f"in {share:.1%} of the {parts}. What was attacked is not what was scored: attack it with the time held still.",
    )


def say_seeded(model: AttackedModel) -> None:
    """Warn of random numbers that the image itself seeds: they are the same whenever it is asked about, and others for
    each change of it.

    Args:
        model: what is attacked.
    """
    model.warn_once(
        "random",
        "the network draws random numbers that the image seeds: asked twice it gives the same answer, and another one "
        "for a change that nobody sees. Averages over draws are of one draw, and attacks by gradients follow another "
        "function at each step: attack it without the seed, and read scores as those of one draw.",
    )
