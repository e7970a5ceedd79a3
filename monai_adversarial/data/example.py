# SPDX-License-Identifier: Apache-2.0
"""A network, an image and its label in one line and without a file: what the examples of the documentation attack."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.validation import check_count

__all__ = ["EXAMPLE_CLASSES", "ExampleNetwork", "example_case"]

EXAMPLE_CLASSES = ("background", "gallbladder", "liver", "lesion")

# HU of the four classes, the background being muscle. Neighbors in space are neighbors in HU: where two tissues share a
# voxel, no third class is seen.
_HU = (45.0, 28.0, 62.0, 80.0)
# The window of the network, HU that become 0 and 1.
_LOW, _HIGH = -160.0, 340.0
_SMALLEST = 16


class ExampleNetwork(torch.nn.Module):
    """Smooths an image in the window of -160..340 HU and gives each voxel to the class with the nearest HU.

    A stand-in for a trained U-Net: nothing is learned and nothing random. It segments the image of
    :func:`example_case`, and about 17 HU between tissues make it easy to attack.

    Args:
        sharpness: factor of the squared distance in the window, of which the negative is a class's logit.
    """

    def __init__(self, sharpness: float = 4000.0) -> None:
        super().__init__()
        self.smoothing = torch.nn.Conv3d(1, 1, 3, padding=1, padding_mode="replicate", bias=False)
        torch.nn.init.constant_(self.smoothing.weight, 1 / 27)
        self.centers = torch.nn.Parameter((torch.tensor(_HU) - _LOW) / (_HIGH - _LOW))
        self.sharpness = float(sharpness)
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (batch, 4, depth, height, width) of an image (batch, 1, depth, height, width) in the window."""
        return -self.sharpness * (self.smoothing(image) - self.centers.view(1, -1, 1, 1, 1)).square()


def example_case(size: int = 32, seed: int = 0) -> tuple[AttackedModel, MetaTensor, MetaTensor]:
    """A model of four classes, a CT-like image and its label; made in milliseconds, the same for the same arguments.

    Muscle with a gallbladder and a liver as ellipsoids, and a lesion in the liver. It is a toy for examples and says
    nothing about robustness; :func:`~monai_adversarial.data.phantom.generate_ct_phantom` draws an abdomen.

    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> image.shape, image.meta["affine"].diagonal().tolist(), label.unique().tolist()
    (torch.Size([1, 1, 32, 32, 32]), [3.0, 3.0, 3.0, 1.0], [0.0, 1.0, 2.0, 3.0])

    Args:
        size: voxels along each axis, at least 16; the field of view is 96 mm.
        seed: of the noise, 10 HU.

    Returns:
        The model (image in HU, window -160..340 HU, classes as in ``EXAMPLE_CLASSES``), the image
        (1, 1, size, size, size) in HU with its affine in mm, and the class map of the same shape, float32.

    Raises:
        ValueError: for a size below 16.
    """
    check_count("size", size, minimum=_SMALLEST)
    axis = torch.linspace(-1, 1, size)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    label = torch.zeros(size, size, size)
    label[((x + 0.55) / 0.3) ** 2 + (y / 0.3) ** 2 + (z / 0.45) ** 2 < 1] = 1
    label[((x - 0.35) / 0.5) ** 2 + (y / 0.6) ** 2 + (z / 0.7) ** 2 < 1] = 2
    label[((x - 0.35) / 0.22) ** 2 + ((y - 0.1) / 0.22) ** 2 + (z / 0.3) ** 2 < 1] = 3
    noise = torch.randn(label.shape, generator=torch.Generator().manual_seed(check_count("seed", seed, minimum=0)))
    hu = (torch.tensor(_HU)[label.long()] + 10 * noise).round()
    affine = torch.diag(torch.tensor([96.0 / size] * 3 + [1.0], dtype=torch.float64))
    image, truth = (MetaTensor(part[None, None], affine=affine) for part in (hu, label))
    model = AttackedModel(ExampleNetwork(), intensity={"a_min": _LOW, "a_max": _HIGH}, image_units="HU")
    return model, image, truth
