# SPDX-License-Identifier: Apache-2.0
"""The picture of one unit: what was done to the image and what the network makes of it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from monai_adversarial.metrics import organ_names
from monai_adversarial.utils.shown_names import shown_name

__all__ = ["Panel", "organ_colors", "save_panel"]

# Distinct on gray and for most color-blind readers.
COLORS = ("#E4572E", "#4EA5FF", "#FFC914", "#17C3B2", "#C77DFF", "#76D637", "#FF8FC7", "#F4A259", "#A0E8FF", "#B5651D")
# Norms of budgets in words.
NORMS = {
    "linf": "L-infinity: every voxel",
    "l2": "L2 over all voxels",
    "rms": "root mean square",
    "euclidean": "length",
    "per_axis": "along each axis",
}
LARGEST_GRID_CELLS = 24
LEGEND_COLUMNS = 4
LONGEST_NAME = 60
# Inches: an image's width, what lies around it, the two lines above all, and the legend below.
WIDTH, GAP, EDGE, TITLE, HEADING, COLORBAR = 4.0, 0.15, 0.08, 0.28, 0.5, 0.6
LEGEND_TITLE, LEGEND_LINE = 0.35, 0.22


@dataclass
class Panel:
    """What a picture shows; volumes are (spatial...) on the input file's grid, on the CPU.

    Args:
        clean: image in HU.
        adversarial: image in HU, as read back.
        clean_label: reference of the clean image.
        adversarial_label: reference moved with the anatomy.
        clean_prediction: class map.
        adversarial_prediction: class map.
        affine: of the file, (4, 4).
        displacement: (axis, spatial...) in mm along the voxel axes; None for an attack of intensity.
        record: of the unit.
        class_names: names of the classes, background first.
        window: display window in HU.
        units: of the images, for what is written.
        gain: field of a bias-field attack (spatial...) in percent; None for other attacks.
    """

    clean: torch.Tensor
    adversarial: torch.Tensor
    clean_label: torch.Tensor
    adversarial_label: torch.Tensor
    clean_prediction: torch.Tensor
    adversarial_prediction: torch.Tensor
    affine: Any
    displacement: torch.Tensor | None
    record: Mapping[str, Any]
    class_names: Sequence[str] | Mapping[Any, str]
    window: tuple[float, float]
    units: str = "HU"
    gain: torch.Tensor | None = None


def organ_colors(class_names: Sequence[str] | Mapping[Any, str]) -> dict[int, str]:
    """One color per organ, by class index."""
    return {index: COLORS[i % len(COLORS)] for i, index in enumerate(organ_names(class_names))}


class _View:
    """Cuts volumes of one case to the axial slice and the field of view that the picture shows."""

    def __init__(self, panel: Panel) -> None:
        affine = np.asarray(panel.affine, dtype=float)
        self.to_ras = nibabel.orientations.io_orientation(affine)
        zooms = np.linalg.norm(affine[:3, :3], axis=0)
        self.spacing = [zooms[int(np.flatnonzero(self.to_ras[:, 0] == axis)[0])] for axis in range(3)]
        wrong = [
            (self.canonical(prediction) != self.canonical(label)).sum(axis=(0, 1))
            for prediction, label in (
                (panel.clean_prediction, panel.clean_label),
                (panel.adversarial_prediction, panel.adversarial_label),
            )
        ]
        self.slices = len(wrong[0])
        self.index = int((wrong[1] - wrong[0]).argmax())
        body = self.canonical(panel.clean)[:, :, self.index] > -500
        self.box = tuple(_interval(np.asarray(body.any(axis=1 - axis)), body.shape[axis]) for axis in range(2))

    def canonical(self, volume: torch.Tensor) -> np.ndarray:
        """The volume with axes toward right, anterior, superior."""
        return nibabel.orientations.apply_orientation(volume.numpy(), self.to_ras)

    def cut(self, volume: torch.Tensor) -> np.ndarray:
        """Rows from anterior to posterior, columns from the patient's right to left, as radiologists read."""
        return self.show(self.canonical(volume)[:, :, self.index])

    def show(self, plane: np.ndarray) -> np.ndarray:
        """Crop a (right, anterior) plane and turn it for the screen."""
        return plane[self.box][::-1, ::-1].T

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width."""
        return float(self.spacing[1] / self.spacing[0])


def _interval(inside: np.ndarray, size: int) -> slice:
    found = np.flatnonzero(inside)
    if len(found) < 8:
        return slice(0, size)
    margin = max(2, size // 40)
    return slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + margin + 1, size))


def save_panel(panel: Panel, path: str | os.PathLike[str]) -> None:
    """Write the picture of one unit as PNG.

    Above: the clean image, the network's prediction on it, the reference. Below: the adversarial image, the
    prediction on it, and the change in HU (of a bias field its gain in percent, of a deformation the grid that it makes
    of straight lines, with its length in mm as color). The axial slice is the one where most
    voxels went wrong.

    Args:
        panel: what to show.
        path: PNG file.
    """
    view = _View(panel)
    record, colors = panel.record, organ_colors(panel.class_names)
    handles = _legend_handles(panel, colors)
    rows, columns = view.cut(panel.clean).shape
    sheet = _Sheet(rows * view.aspect / columns, lines=math.ceil(len(handles) / LEGEND_COLUMNS))
    after = "moved reference" if record["geometric"] else "reference"
    dice = {name: record["mean"][name]["dice"] for name in ("clean", "random", "adversarial")}
    label_free = record["reference"] != "label"

    _image(sheet.axes(0, 0), view, panel.clean, panel.window, "clean image")
    axis = sheet.axes(0, 1)
    _image(axis, view, panel.clean, panel.window, f"prediction on it: Dice {_text(dice['clean'])}")
    _overlay(axis, view, panel.clean_prediction, colors)
    axis = sheet.axes(0, 2)
    _image(axis, view, panel.adversarial if record["geometric"] else panel.clean, panel.window,
           f"{after} (clean prediction)" if label_free else after)  # fmt: skip
    _overlay(axis, view, panel.adversarial_label, colors)
    left, middle = sheet.axes(1, 0), sheet.axes(1, 1)
    _image(left, view, panel.adversarial, panel.window, "adversarial image")
    _image(middle, view, panel.adversarial, panel.window, f"prediction on it: Dice {_text(dice['adversarial'])}")
    _overlay(middle, view, panel.adversarial_prediction, colors)
    for axis in (left, middle):
        axis.text(
            0.98,
            0.98,
            "ADVERSARIAL",
            transform=axis.transAxes,
            ha="right",
            va="top",
            color="#FF6B6B",
            fontsize=8,
            fontweight="bold",
        )
    if panel.gain is not None:
        _gain(sheet, view, panel.gain)
    elif panel.displacement is None:
        _difference(sheet, view, panel)
    else:
        _deformation(sheet, view, panel.displacement)

    visible = record["visibility"]
    title = (
        f"{_name(record['attack'])}  ·  {_name(record['case'], spaced=False)}  ·  "
        f"axial slice {view.index + 1} of {view.slices}\n"
        f"mean organ Dice: clean {_text(dice['clean'])},  random change of equal size {_text(dice['random'])},  "
        f"adversarial {_text(dice['adversarial'])}     SSIM {visible['ssim']:.3f}     {_budget(record)}"
    )
    sheet.write(title, handles, path)


def _legend_handles(panel: Panel, colors: Mapping[int, str]) -> list[Patch]:
    """A color with the Dice before and after for each organ that has one."""
    scores = panel.record["scores"]

    def dice(image: str, name: str) -> float | None:
        return scores[image][name]["dice"]

    return [
        Patch(
            color=colors[index],
            label=f"{_name(name)}  {_text(dice('clean', name))} → {_text(dice('adversarial', name))}",
        )
        for index, name in organ_names(panel.class_names).items()
        if any(dice(image, name) is not None for image in ("clean", "adversarial"))
    ]


class _Sheet:
    """A figure with two rows of three images at known places: a layout that is searched for draws all twice.

    Args:
        shape: height of an image over its width.
        lines: of the legend.
    """

    def __init__(self, shape: float, lines: int) -> None:
        self.image = (WIDTH, WIDTH * shape)
        self.legend = LEGEND_TITLE + lines * LEGEND_LINE
        self.size = (
            3 * WIDTH + 2 * GAP + 2 * EDGE + COLORBAR,
            2 * (self.image[1] + TITLE) + HEADING + self.legend + EDGE,
        )
        self.figure = Figure(figsize=self.size, dpi=110, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, row: int, column: int) -> Axes:
        """The axes of one image, without ticks and frame."""
        return self._axes(EDGE + column * (WIDTH + GAP), row, WIDTH)

    def colorbar(self, shown: Any) -> None:
        """The color scale of the last image, at its right."""
        place = self._axes(EDGE + 3 * WIDTH + 2 * GAP + 0.12, 1, 0.18)
        place.set_axis_on()
        self.figure.colorbar(shown, cax=place)
        place.tick_params(labelsize=8)

    def _axes(self, left: float, row: int, width: float) -> Axes:
        bottom = self.legend + EDGE + (1 - row) * (self.image[1] + TITLE)
        across, up = self.size
        axes = self.figure.add_axes((left / across, bottom / up, width / across, self.image[1] / up))
        axes.set_axis_off()
        return axes

    def write(self, title: str, handles: Sequence[Patch], path: str | os.PathLike[str]) -> None:
        """Add title and legend, and write the picture."""
        self.figure.text(0.5, 1 - 0.08 / self.size[1], title, ha="center", va="top", fontsize=12)
        self.figure.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, self.legend / self.size[1]),
            ncols=min(LEGEND_COLUMNS, max(1, len(handles))),
            frameon=False,
            fontsize=10,
            title="Dice, clean → adversarial",
            title_fontsize=10,
        )
        self.figure.savefig(path, format="png")


def _name(name: str, spaced: bool = True) -> str:
    """A name from outside, which must neither be a formula nor push the rest out of the picture."""
    return shown_name(name.replace("_", " ") if spaced else name, "picture", LONGEST_NAME)


def _text(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.2f}"


def _budget(record: Mapping[str, Any]) -> str:
    """The measurement that the attack's budget bounds from above."""
    for name, measured in record["measurements"].items():
        if measured["bound"] == "upper" and measured["limit"]:
            norm = NORMS.get(measured.get("norm"), measured.get("norm"))
            limit = f"at most {measured['limit']:.3g}" + (f", {norm}" if norm else "")
            return f"{name.replace('_', ' ')} {measured['value']:.3g} {measured['units']} ({limit})"
    return f"largest change {record['visibility']['largest_change_hu']:.3g} HU"


def _image(axis: Axes, view: _View, volume: torch.Tensor, window: tuple[float, float], title: str) -> None:
    axis.imshow(
        view.cut(volume), cmap="gray", vmin=window[0], vmax=window[1], aspect=view.aspect, interpolation="bilinear"
    )
    _title(axis, title)
    _sides(axis)


def _title(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=11, y=1.0)  # a place of its own: without one, ticks that nobody sees are measured


def _sides(axis: Axes) -> None:
    for text, x, side in (("R", 0.01, "left"), ("L", 0.99, "right")):
        axis.text(x, 0.5, text, transform=axis.transAxes, ha=side, va="center", color="#CCCCCC", fontsize=8)


def _overlay(axis: Axes, view: _View, classes: torch.Tensor, colors: Mapping[int, str]) -> None:
    """Organs filled lightly, with their outline in full color."""
    plane = view.cut(classes)
    fill = np.zeros((*plane.shape, 4))
    for index, color in colors.items():
        fill[plane == index] = (*to_rgb(color), 0.38)
    axis.imshow(fill, aspect=view.aspect, interpolation="nearest")
    for index, color in colors.items():
        inside = plane == index
        if inside.any() and min(inside.shape) > 1:
            axis.contour(np.pad(inside, 1)[1:-1, 1:-1].astype(float), levels=[0.5], colors=[color], linewidths=1.2)


def _difference(sheet: _Sheet, view: _View, panel: Panel) -> None:
    """Change of intensity with a diverging color map that is symmetric about 0."""
    axis = sheet.axes(1, 2)
    change = view.cut(panel.adversarial).astype(np.float64) - view.cut(panel.clean)
    limit = float(np.quantile(np.abs(change), 0.999)) or 1.0
    shown = axis.imshow(change, cmap="coolwarm", vmin=-limit, vmax=limit, aspect=view.aspect, interpolation="nearest")
    _title(axis, f"adversarial − clean, {panel.units}")
    sheet.colorbar(shown)


def _gain(sheet: _Sheet, view: _View, gain: torch.Tensor) -> None:
    """The field that multiplied the image, in percent, with a color map that is symmetric about 0."""
    axis = sheet.axes(1, 2)
    field = view.cut(gain).astype(np.float64)
    limit = float(np.abs(field).max()) or 1.0
    shown = axis.imshow(field, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect=view.aspect, interpolation="bilinear")
    _title(axis, "gain field, %")
    sheet.colorbar(shown)


def _deformation(sheet: _Sheet, view: _View, displacement: torch.Tensor) -> None:
    """The grid that the deformation makes of straight lines, over the length of the displacement in mm."""
    axis = sheet.axes(1, 2)
    length = np.linalg.norm([view.cut(part).astype(np.float64) for part in displacement], axis=0)
    shown = axis.imshow(length, cmap="viridis", vmin=0, aspect=view.aspect, interpolation="bilinear")
    order = [int(np.flatnonzero(view.to_ras[:, 0] == axis_)[0]) for axis_ in range(2)]
    # Displacements along the file's axes, turned toward the screen's: columns run to the left, rows to posterior.
    across, down = (
        -view.cut(displacement[k]) * view.to_ras[k, 1] / view.spacing[axis_] for axis_, k in enumerate(order)
    )
    row, column = np.mgrid[: length.shape[0], : length.shape[1]].astype(float)
    x, y = column + across, row + down
    step = max(2, max(length.shape) // LARGEST_GRID_CELLS)
    for lines in (slice(step // 2, None, step), (slice(None), slice(step // 2, None, step))):
        turn = isinstance(lines, slice)  # rows become curves one by one, columns as they are
        axis.plot(*((v[lines].T if turn else v[lines]) for v in (x, y)), color="white", linewidth=0.7, alpha=0.85)
    axis.set_xlim(-0.5, length.shape[1] - 0.5)
    axis.set_ylim(length.shape[0] - 0.5, -0.5)
    _title(axis, "deformation, mm")
    sheet.colorbar(shown)
