# SPDX-License-Identifier: Apache-2.0
"""What users hand to an attack: every type is converted once and comes back; what cannot fit is one sentence."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer, SlidingWindowInferer
from monai.networks.nets import UNet
from torch import nn

from monai_adversarial.attacks import FGSM, PGD, AffineAttack, ElasticAttack
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.arrays import StoredAs, as_given, as_tensor
from monai_adversarial.utils.plain import as_plain
from tests.helpers import LinearNetwork, random_image, random_label, tiny_segmentation_network

SHAPE = (2, 1, 8, 7, 6)
GRAY = random_image(SHAPE)
LABEL = random_label(SHAPE)


def exact(network: Any) -> AttackedModel:
    return AttackedModel(network, precision="float32")


def change(adversarial: Any, image: Any) -> float:
    """Largest change of a voxel, computed in float64 from what was handed in and out."""
    wide = [x.double().numpy() if isinstance(x, torch.Tensor) else x.astype(np.float64) for x in (adversarial, image)]
    return float(np.abs(wide[0] - wide[1]).max())


FRACTIONS = {
    "float64": GRAY.double(),
    "float16": GRAY.half(),
    "bfloat16": GRAY.bfloat16(),
    "array": GRAY.numpy(),
    "array float64": GRAY.double().numpy(),
    "array float16": GRAY.half().numpy(),
    "array big-endian": GRAY.numpy().astype(">f4"),
    "array big-endian float64": GRAY.numpy().astype(">f8"),
    "array with negative strides": GRAY.numpy()[:, :, ::-1],
    "array in Fortran order": np.asfortranarray(GRAY.numpy()),
    "array that cannot be written": np.broadcast_to(GRAY.numpy(), SHAPE),
    "channels last": GRAY.to(memory_format=torch.channels_last_3d),
    "metatensor float64": MetaTensor(GRAY.double()),
}
WHOLE = {
    "uint8": (GRAY * 255).to(torch.uint8),
    "int16": (GRAY * 2000 - 1000).to(torch.int16),
    "int64": (GRAY * 2000 - 1000).long(),
    "uint16": (GRAY * 2000).numpy().astype(np.uint16),
    "array int16": (GRAY * 2000 - 1000).numpy().astype(np.int16),
    "array big-endian int16": (GRAY * 2000 - 1000).numpy().astype(">i2"),
    "metatensor int16": MetaTensor((GRAY * 2000 - 1000).to(torch.int16)),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", FRACTIONS)
def test_an_image_of_any_type_is_attacked_as_its_float32_form_and_comes_back(kind: str, training: bool) -> None:
    image, attack, network = FRACTIONS[kind], PGD(0.05, steps=2), tiny_segmentation_network()
    run = attack.perturb if training else attack
    found = run(exact(network), image, LABEL).adversarial
    assert type(found) is type(image) and found.dtype == image.dtype and found.shape == image.shape
    plain = as_plain(as_tensor("image", image)).float()
    expected = run(exact(network), plain, LABEL).adversarial
    step = 1e-6 if "16" not in kind else 0.008  # of bfloat16 above 1
    torch.testing.assert_close(as_plain(as_tensor("found", found)).float(), expected, rtol=0, atol=step)
    half = {"float16": 1e-3, "array float16": 1e-3, "bfloat16": 8e-3}.get(kind, 1e-6)
    assert 0.05 - half <= change(found, image) <= (0.05 + half if training else 0.05 + 1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers_come_back_as_whole_numbers_inside_the_budget(kind: str, training: bool) -> None:
    image, attack = WHOLE[kind], PGD(3.6, steps=3, random_start=False)
    model = exact(tiny_segmentation_network())
    found = (attack.perturb if training else attack)(model, image, LABEL).adversarial
    assert type(found) is type(image) and found.dtype == image.dtype
    assert change(found, image) == 3


def test_a_voxel_at_the_end_of_its_type_does_not_wrap_around() -> None:
    image = torch.full(SHAPE, 250, dtype=torch.uint8)
    image[:, :, 0] = 3
    label = torch.zeros(SHAPE, dtype=torch.long)
    label[:, :, 0] = 1
    result = PGD(8, steps=4, objective="ce", random_start=False)(exact(LinearNetwork((-1.0, 1.0))), image, label)
    assert (result.adversarial[:, :, 0] == 0).all() and (result.adversarial[:, :, 1:] == 255).all()
    assert result.verify(result.adversarial)["noise_linf"].values.max() == 5
    control, _ = result.random_control()
    assert control.dtype == torch.uint8 and change(control, image) <= 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_never_rounds_a_change_beyond_what_it_was(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.cat([torch.randn(5000, generator=generator) * 10**power for power in (-1, 0, 3)]).to(dtype).float()
    moved = clean + torch.randn(clean.shape, generator=generator) * clean.abs() * 0.01
    stored = StoredAs(dtype)(clean, moved)
    assert torch.equal(stored.to(dtype).float(), stored)
    assert ((stored - clean).abs() <= (moved - clean).abs()).all()
    assert ((stored - moved).abs() <= 2 * torch.finfo(dtype).eps * moved.abs() + 1e-6).all()


def test_a_float64_network_is_attacked_in_float64() -> None:
    network = tiny_segmentation_network().double()
    result = PGD(0.05, steps=2)(network, GRAY, LABEL)
    assert result.adversarial.dtype == torch.float32 and result.parameters[0].dtype == torch.float64


@pytest.mark.parametrize("make", [PGD(0.05, steps=2), ElasticAttack(2.0, control_spacing=4.0, steps=2)], ids=repr)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.bool(),
        lambda x: x.to(torch.uint8),
        lambda x: x.to(torch.uint16),
        lambda x: x.int(),
        lambda x: x.half(),
        lambda x: x.bfloat16(),
        lambda x: x.double(),
        lambda x: x.numpy(),
        lambda x: x.numpy().astype(bool),
        lambda x: x.numpy().astype(np.uint16),
        lambda x: x.numpy().astype(">i4"),
        lambda x: np.asfortranarray(x.numpy()),
        lambda x: x.numpy()[:, :, ::-1],
    ],
)
def test_a_label_of_any_type_counts_as_class_indices_and_comes_back(make: Any, training: bool, convert: Any) -> None:
    label = convert(random_label(SHAPE, classes=2))
    plain = as_tensor("label", label).long()
    run = make.perturb if training else make
    found, expected = (run(exact(tiny_segmentation_network()), GRAY, given, spacing=1.0) for given in (label, plain))
    assert torch.equal(found.adversarial, expected.adversarial)
    assert type(found.label) is type(label) and found.label.dtype == label.dtype
    assert np.array_equal(np.asarray(as_tensor("", found.label).long()), expected.label.numpy())
    if not training:
        assert torch.equal(found.clean_dice, expected.clean_dice)


def test_regions_may_be_arrays() -> None:
    region = np.zeros(SHAPE, dtype=bool)
    region[:, :, :3] = True
    result = PGD(0.05, steps=2)(tiny_segmentation_network(), GRAY.numpy(), LABEL.numpy(), region=region)
    assert isinstance(result.adversarial, np.ndarray)
    assert (result.adversarial != GRAY.numpy())[region].any() and not (result.adversarial != GRAY.numpy())[
        ~region
    ].any()


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = tiny_segmentation_network()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.body(image).flatten(2).mean(dim=2)


SOLID, FLAT = tiny_segmentation_network(), tiny_segmentation_network(spatial_dims=2)
COLOR = tiny_segmentation_network(in_channels=3, spatial_dims=2)


#: sentences about a label's values, which training says once and goes on
OF_VALUES = (
    "BraTS stores the enhancing tumor as 4",
    "is label > 0 as class indices",
    "give the AttackedModel ignore_index=255",
    r"the values 0, 600 must become 0, 1, 2, ..., as with MapLabelValue",
    "one-hot .* divide it by 255",
)


@pytest.mark.parametrize(
    ("network", "image", "label", "says"),
    [
        (SOLID, GRAY[:1, 0], None, r"image has 4 dimensions \(1, 8, 7, 6\): a 3D network needs \(batch, channel, x, y, "
         r"z\); add the batch axis with image\[None\]\.$"),
        (SOLID, GRAY[:, 0], None, r"add the channel axis with image\[:, None\]"),
        (SOLID, GRAY[0, 0], None, r"add the batch and channel axes with image\[None, None\]"),
        (COLOR, torch.rand(3, 8, 8), None, r"needs \(batch, channel, x, y\); add the batch axis with image\[None\]"),
        (tiny_segmentation_network(out_channels=1), GRAY[:1, 0], None, r"add the batch axis"),
        (FLAT, GRAY, None, r"a 2D network with 1 input channels needs \(batch, channel, x, y\); run a 2D network "
         r"over a volume with SliceInferer\.$"),
        (SOLID, GRAY.movedim(1, -1), None, r"its channels come last, move them with image.movedim\(-1, 1\)"),
        (SOLID, GRAY.movedim(1, -1), LABEL, r"if the image's channels come last, move them with image.movedim"),
        (SOLID, GRAY, LABEL[:, 0], r"got \(2, 8, 7, 6\); add the channel axis with label\[:, None\]\.$"),
        (SOLID, GRAY[:1], LABEL[0, 0], r"add the batch and channel axes with label\[None, None\]\.$"),
        (SOLID, GRAY[:1], LABEL[0], r"add the channel axis"),
        (SOLID, GRAY, LABEL[..., :-1], r"label must have shape \(2, 1 or number of classes, 8, 7, 6\) to fit"),
        (SOLID, GRAY, LABEL.movedim(1, -1), r"its channels come last, move them with label.movedim\(-1, 1\)"),
        (AttackedModel(Classifier(), task="segmentation"), GRAY, None, "the model's task is 'segmentation', but .* one "
         "answer per image: leave task out"),
        (AttackedModel(SOLID, task="classification"), GRAY, None, "one answer per voxel: leave task out"),
        (AttackedModel(Classifier(), task="classification"), GRAY, torch.tensor([1, 0, 2]),
         r"label must hold class numbers \(2,\), .* got shape \(3,\)"),
        (Classifier(), GRAY, torch.tensor([1.5, 0.0]), "label must hold whole numbers"),
        (tiny_segmentation_network(out_channels=4), GRAY, (LABEL > 0) * 4, "BraTS stores the enhancing tumor as 4"),
        (tiny_segmentation_network(out_channels=2), GRAY, (LABEL > 0) * 255, "is label > 0 as class indices"),
        (SOLID, GRAY, torch.where(LABEL == 2, 255, LABEL), "give the AttackedModel ignore_index=255"),
        (SOLID, GRAY, (LABEL > 0) * 600, r"the values 0, 600 must become 0, 1, 2, ..., as with MapLabelValue"),
        (SOLID, GRAY, torch.cat([LABEL == 0, LABEL == 1, LABEL == 2], 1) * 255, "one-hot .* divide it by 255"),
        (SOLID, GRAY, LABEL * 1.0000001, "label must hold whole numbers"),
        (lambda x: {"out": SOLID(x)}, GRAY, LABEL, "'out'"),
        (SOLID, GRAY[:1, :, 0], None, r"image has 4 dimensions \(1, 1, 7, 6\), a batch of slices: a 3D network needs"),
        (SOLID, GRAY, torch.zeros(2, 1, 4, 5, 6), r"got \(2, 1, 4, 5, 6\); it lies on another grid: transform it as"),
        (SOLID, GRAY, torch.zeros(2, 4, 5, 6), r"its channel axis is missing \(EnsureChannelFirstd\), and it lies on"),
        (UNet(3, 1, 2, (4, 8), (2,)), GRAY, None, r"got \(2, 2, 8, 8, 6\); the network halves and doubles sizes, so "
         r"give the AttackedModel the inferer that you predict with"),
        (UNet(3, 1, 2, (4, 8, 16), (2, 2)), GRAY, None, r"the network cannot answer an image of \(2, 1, 8, 7, 6\): the "
         r"network halves and doubles sizes"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("training", [False, True])
def test_what_does_not_fit_is_one_sentence(network: Any, image: Any, label: Any, says: str, training: bool) -> None:
    attack = PGD(0.1, steps=1)
    options = {"reference": "prediction"} if training and label is None else {}
    if training and says in OF_VALUES:  # a label that does not fit never ends a training
        with pytest.warns(UserWarning, match=f"{says}.* attacked against the network's own clean prediction"):
            attack.perturb(copy.deepcopy(network), image, label, **options)  # said once for each network
        return
    with pytest.raises((ValueError, TypeError), match=says) as caught:
        (attack.perturb if training else attack)(network, image, label, **options)
    assert "\n" not in str(caught.value)


class SliceBySlice(nn.Module):
    """A 2D network that takes volumes: the axes of its convolutions are not those of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = tiny_segmentation_network(spatial_dims=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.body(part) for part in image.unbind(-1)], dim=-1)


def test_axes_are_not_held_against_networks_and_inferers_that_change_them() -> None:
    PGD(0.1, steps=1)(SliceBySlice(), GRAY)
    PGD(0.1, steps=1)(AttackedModel(FLAT, SliceInferer(roi_size=(8, 7), spatial_dim=2)), GRAY)
    PGD(0.1, steps=1)(lambda x: SOLID(x[..., None])[..., 0], GRAY[..., 0])
    PGD(0.1, steps=1)(AttackedModel(SOLID, SlidingWindowInferer(4)), GRAY)


def test_an_error_of_the_network_itself_is_handed_on() -> None:
    def broken(image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        PGD(0.1, steps=1)(broken, GRAY)
    with pytest.raises(RuntimeError, match="to have 2 channels"):
        PGD(0.1, steps=1)(tiny_segmentation_network(in_channels=2), GRAY)


def test_numbers_are_rounded_and_kept_inside_an_integer_type() -> None:
    values = torch.tensor([-300.0, -0.6, 2.5, 3.5, 300.0])
    assert as_given(values, np.zeros(1, dtype=np.uint8)).tolist() == [0, 0, 2, 4, 255]
    assert as_given(values, torch.zeros(1, dtype=torch.int8)).tolist() == [-128, -1, 2, 4, 127]
    assert as_given(values, np.zeros(1, dtype=">f8")).dtype == np.dtype(">f8")


@pytest.mark.parametrize("spacing", ["zero", "nan", "negative", "cut"])
def test_the_affine_counts_only_where_millimeters_are_used(spacing: str) -> None:
    affine = torch.diag(torch.tensor([1.0, 2.0, 5.0, 1.0], dtype=torch.float64))
    image, network = MetaTensor(GRAY[:1], affine=affine), SOLID
    if spacing == "zero":
        image.affine[2, 2] = 0.0
    elif spacing == "nan":
        image.affine[:] = torch.nan
    elif spacing == "negative":
        image.affine[0, 0] = -1.0
    elif spacing == "cut":  # MONAI keeps the affine of the volume
        image, network = image[:, :, 3], FLAT
    noisy = PGD(0.1, steps=1)(network, image)
    assert change(noisy.adversarial.as_tensor(), image.as_tensor()) == pytest.approx(0.1, abs=1e-6)
    for attack in (ElasticAttack(2.0, control_spacing=4.0, steps=1), AffineAttack(steps=1)):
        if spacing == "negative":
            attack(network, image)
            continue
        with pytest.raises(ValueError, match=r"is in mm\), but the image's affine gives .*; pass spacing=") as caught:
            attack(network, image)
        assert "\n" not in str(caught.value)
        attack(network, image, spacing=1.5)


class AddsAxis(torch.nn.Module):
    """A network of neighboring slices as channels, which are depth to its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The answer for the slice in the middle."""
        return self.convolution(image[:, None])[:, :, image.shape[1] // 2]


def test_a_network_that_adds_an_axis_itself_is_attacked_behind_an_inferer() -> None:
    slices = torch.rand(1, 3, 8, 8)
    with pytest.raises(
        ValueError, match=r"pass inferer=lambda image, network: network\(image\) where the network adds"
    ):
        FGSM(0.1)(AddsAxis(), slices)
    result = FGSM(0.1)(AttackedModel(AddsAxis(), lambda image, network: network(image)), slices)
    assert result.prediction.shape == (1, 1, 8, 8)
