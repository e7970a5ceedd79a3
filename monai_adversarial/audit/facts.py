# SPDX-License-Identifier: Apache-2.0
"""What an audit knows of its target: what was read and where, what was told, and what is still to be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "FOLLOWS_IMAGE",
    "INPUT_FITS",
    "OWN_GRADIENT",
    "SAME_ANSWER",
    "TRAINED",
    "Fact",
    "Missing",
    "TargetError",
    "missing_sentence",
]

#: what the first case shows of the deployment: values that begin with "no" are flagged
SAME_ANSWER, FOLLOWS_IMAGE = "same answer twice", "answer follows the image"
#: the same for what is given to it, where the score is low
INPUT_FITS = "input as the network was built for"
#: and for the network itself
TRAINED = "trained"
#: the same for what attacks by gradients follow
OWN_GRADIENT = "gradient is that of the network"


class TargetError(ValueError):
    """A target that cannot be audited as it is; one sentence that says why and what to do.

    >>> from monai_adversarial.audit import AuditTarget, TargetError
    >>> from monai_adversarial.data.example import ExampleNetwork
    >>> from monai_adversarial.models import AttackedModel
    >>> model = AttackedModel(ExampleNetwork(), image_units="network")
    >>> try:
    ...     AuditTarget.of_model(model)
    ... except TargetError as error:
    ...     print(str(error).split(":")[0])
    an AttackedModel with image_units='network' does not say how its images are made
    """


@dataclass(frozen=True)
class Fact:
    """One thing that is known of a target.

    >>> from monai_adversarial.audit import Fact
    >>> print(Fact("inferer", "sliding windows of 96 x 96 x 96", "inference.json", told=False))
    inferer: sliding windows of 96 x 96 x 96 (inference.json)
    >>> print(Fact("classes", "background, spleen", "--class-names", told=True))
    classes: background, spleen (told by --class-names)

    Args:
        what: ``"network"``, ``"inferer"``, ``"intensity map"``, ``"activation"``, ``"classes"``, ...
        value: in words.
        source: where it was read: a config key, a file, ``"first case"``, or the option that told it.
        told: whether the user said it.
    """

    what: str
    value: str
    source: str = ""
    told: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.value}" + (
            f" ({'told by ' if self.told else ''}{self.source})" if self.source else ""
        )


@dataclass(frozen=True)
class Missing:
    """One thing that nothing says and the audit needs.

    >>> from monai_adversarial.audit import AuditTarget, Missing, TargetParts
    >>> from monai_adversarial.data.example import ExampleNetwork
    >>> window = Missing("intensity map", "--window LOW HIGH", "budgets in HU")
    >>> target = AuditTarget(TargetParts("TorchScript", "network.pt", ExampleNetwork(), missing=[window]))
    >>> [missing.option for missing in target.missing]
    ['--window LOW HIGH']

    Args:
        what: as in ``Fact``.
        option: that tells it, for example ``"--window LOW HIGH"``.
        why: what it is needed for.
    """

    what: str
    option: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} is not known: {self.option} ({self.why})"


def missing_sentence(name: str, missing: Sequence[Missing]) -> str:
    """One sentence over all that is missing, for an error."""
    return f"{name} cannot be audited yet: " + "; ".join(map(str, missing)) + "."
