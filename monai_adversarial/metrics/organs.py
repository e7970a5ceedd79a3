# SPDX-License-Identifier: Apache-2.0
"""Which channels of a network are organs, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["organ_channels", "organ_names"]

#: what nobody calls an organ
BACKGROUND = ("background", "bg")


def organ_names(class_names: Sequence[str] | Mapping[Any, str]) -> dict[int, str]:
    """Class index to name for every class but the background (class 0).

    >>> from monai_adversarial.metrics import organ_names
    >>> organ_names({"0": "background", "1": "spleen"}) == organ_names(["background", "spleen"])
    True
    >>> organ_names(["background"])
    Traceback (most recent call last):
    ValueError: ...

    Args:
        class_names: names in the order of the classes, background first, or a mapping of class index to name as in a
            bundle's
            ``channel_def`` (keys may be strings).

    Raises:
        ValueError: for no organ, a key that is not a class index, a name that occurs twice, or a background that is
            not the first.
    """
    pairs = class_names.items() if isinstance(class_names, Mapping) else enumerate(class_names)
    try:
        names = {int(index): str(name) for index, name in pairs}
    except (TypeError, ValueError):
        raise ValueError(f"class_names must map class indices to names, got {class_names!r}.") from None
    misplaced = [index for index, name in names.items() if index and name.strip().lower() in BACKGROUND]
    if misplaced:
        raise ValueError(
            f"class_names gives class {misplaced[0]} the name {names[misplaced[0]]!r}, but of exclusive classes "
            f"(softmax) class 0 is the background, which is not scored: put it first, got {class_names!r}."
        )
    names.pop(0, None)
    if not names or min(names) < 0 or len(set(names.values())) < len(names):
        raise ValueError(
            f"class_names must give the background first and then one distinct name per organ, got {class_names!r}."
        )
    return dict(sorted(names.items()))


def organ_channels(
    network_classes: int,
    activation: str,
    class_names: Sequence[str] | Mapping[Any, str] | None = None,
    classes: Sequence[int | str] | None = None,
) -> dict[int, str]:
    """Channel of the network to name, for the organs to score.

    >>> from monai_adversarial.metrics import organ_channels
    >>> organ_channels(3, "softmax", ["background", "liver", "spleen"])
    {1: 'liver', 2: 'spleen'}
    >>> organ_channels(2, "sigmoid"), organ_channels(3, "softmax", classes=[2])
    ({0: 'class_0', 1: 'class_1'}, {2: 'class_2'})

    Args:
        network_classes: output channels of the network.
        activation: ``"softmax"`` (channel 0 is the background) or ``"sigmoid"`` (every channel is an organ).
        class_names: one name for each channel, in order, or a mapping of some channels to names, which are scored then;
            with softmax the background comes first. None: ``"class_1"``, ``"class_2"``, ... by the number of the
            channel, which with sigmoid begin at ``"class_0"``; one sigmoid channel is the label's ``"class_1"``.
        classes: the channels or names to score; None for all organs.

    Raises:
        ValueError: for a name or channel that the network does not have, and a list that names some channels only.
    """
    first = 1 if activation == "softmax" else 0
    if class_names is None:
        # One sigmoid channel segments the label's class 1.
        names = {0: "class_1"} if network_classes == 1 else {i: f"class_{i}" for i in range(first, network_classes)}
    elif activation == "softmax":
        names = organ_names(class_names)
    else:
        given = dict(class_names) if isinstance(class_names, Mapping) else dict(enumerate(class_names))
        if network_classes == 1 and len(given) == 2:  # "background" and the organ
            given = {0: list(given.values())[1]}
        names = {int(channel): str(name) for channel, name in given.items()}
    if class_names is not None and not isinstance(class_names, Mapping):
        complete = {network_classes, 2} if network_classes == 1 else {network_classes}
        if len(class_names) not in complete:
            raise ValueError(
                f"class_names holds {len(class_names)} names, but the network has {network_classes} output channels "
                f"({activation}): name each of them, or give a mapping of channel to name to score some, got "
                f"{list(class_names)}."
            )
    if not names or max(names) >= network_classes or min(names) < 0:
        raise ValueError(
            f"class_names must name channels of a network with {network_classes} output channels ({activation}), got "
            f"{class_names!r}."
        )
    if classes is None:
        return names
    chosen = {channel: name for channel, name in names.items() if channel in classes or name in classes}
    unknown = [wanted for wanted in classes if wanted not in chosen and wanted not in chosen.values()]
    if unknown or not chosen:
        raise ValueError(f"classes must be some of {names}, by channel or name, got {list(classes)}.")
    return chosen
