# SPDX-License-Identifier: Apache-2.0
"""A patient who moves between lines of k-space."""

from __future__ import annotations

from dataclasses import replace

import torch

from monai_adversarial.attacks.perturbations.acquisition.block import AcquisitionBlock, Variable
from monai_adversarial.attacks.perturbations.acquisition.k_space import (
    BoundKSpaceBlock,
    along_axis,
    check_phase_axis,
    signed_lines,
)
from monai_adversarial.attacks.perturbations.affine import AffineTransform
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.attacks.perturbations.warp import warp_linear
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["BoundLineMotion", "LineMotion"]


class LineMotion(AcquisitionBlock):
    """Rigid motion between shots: each block of consecutive lines of k-space sees the body in another place.

    The shot that holds the center of k-space, which decides where anatomy appears, is held still, so that labels need
    not move.

    >>> from monai_adversarial.attacks import Attack, LineMotion
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = Attack(LineMotion(6.0, 5.0, shots=3), "dice", steps=3)(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice), result.budgets["translation"].units
    (True, 'mm')

    Args:
        max_translation: of a shot along each axis in mm.
        max_rotation: of a shot about each axis of the volume's center in degrees.
        shots: blocks of lines, at least 2; each is one position of the body.
        phase_axis: spatial axis along which the lines follow each other.

    Raises:
        ValueError: for a number out of range.

    Survey entry: A15 (own).

    Source: the physics of multi-shot imaging, as TorchIO's random motion; the attacked form is ours.
    """

    budget_attributes = ("max_translation", "max_rotation")

    def __init__(
        self, max_translation: float = 3.0, max_rotation: float = 3.0, shots: int = 4, phase_axis: int = 0
    ) -> None:
        self.max_translation = check_positive("max_translation", max_translation, allow_zero=True)
        self.max_rotation = check_positive("max_rotation", max_rotation, allow_zero=True)
        self.shots = check_count("shots", shots, minimum=2)
        self.phase_axis = phase_axis

    def bind(self, scene: Scene) -> BoundLineMotion:
        """Tie the motion to a batch; ValueError where the spacing is not known or lines are fewer than shots."""
        return BoundLineMotion(self, scene)


class BoundLineMotion(BoundKSpaceBlock):
    """Translations in mm, (batch, shots - 1, axes), and rotations in degrees, (batch, shots - 1, angles)."""

    def __init__(self, block: LineMotion, scene: Scene) -> None:
        dimensions = len(scene.spatial_shape)
        angles = dimensions * (dimensions - 1) // 2
        moving = block.shots - 1
        shift, turn = block.max_translation, block.max_rotation
        variables = [Variable("translation", "mm", (moving, dimensions), -shift, shift)]
        if angles:
            variables.append(Variable("rotation", "degrees", (moving, angles), -turn, turn))
        super().__init__(scene, variables)
        self.axis = check_phase_axis(scene, block.phase_axis)
        length = scene.spatial_shape[self.axis]
        if length < block.shots:
            raise ValueError(f"shots must be at most the {length} lines along phase_axis, got {block.shots}.")
        # Lines are acquired from one end of k-space to the other.
        lines = signed_lines(length, scene.image.device)
        order = lines - lines.min()
        shot_of_line = order * block.shots // length
        still = int(order[0]) * block.shots // length
        self.lines_of = [(shot_of_line == shot) for shot in range(block.shots) if shot != still]
        rigid = AffineTransform(max(turn, 1.0), max(shift, 1.0), max_scale=0.0)
        self.rigid = rigid.bind(replace(scene, region=None))
        self.zero_part = scene.image.new_zeros(scene.batch, dimensions + angles)  # of scale and shear

    def change_of_signal(self, signal: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The lines of each shot from the body where it was then."""
        dimension = 2 + self.axis
        total: torch.Tensor | None = None
        for shot, lines in enumerate(self.lines_of):
            pose = [part[:, shot] for part in reversed(parameters)]  # rotation, translation
            displacement = self.rigid.displacement((torch.cat([*pose, self.zero_part], dim=1),))
            difference = torch.fft.fft(warp_linear(signal, displacement) - signal, dim=dimension)
            mask = along_axis(lines[None].to(signal.dtype), self.axis, signal.ndim - 2)
            total = difference * mask if total is None else total + difference * mask
        assert total is not None
        return torch.fft.ifft(total, dim=dimension)
