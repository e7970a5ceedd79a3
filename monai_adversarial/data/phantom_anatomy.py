# SPDX-License-Identifier: Apache-2.0
"""Anatomy of the abdominal CT phantom: organs as implicit shapes in millimeters, painted in HU.

Coordinates are patient RAS+ in mm with the origin near the first lumbar vertebra: x grows to the patient's right, y to
anterior, z to superior. Left organs therefore have negative x.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from monai_adversarial.data.phantom_grid import draw_waves, evaluate_waves, world_coordinates

__all__ = ["CLASS_NAMES", "Anatomy", "Canvas"]

CLASS_NAMES = ("background", "liver", "spleen", "left kidney", "right kidney", "pancreas", "aorta", "spine")
LIVER, SPLEEN, LEFT_KIDNEY, RIGHT_KIDNEY, PANCREAS, AORTA, SPINE = range(1, 8)

Block = tuple[slice, slice, slice]
Point = Sequence[float]


class Canvas:
    """The image and label being painted, with the anatomical coordinates of every voxel.

    Args:
        affine: voxel-to-world matrix (RAS+, mm), world origin at the center of the anatomy.
        size: voxels along each axis.
        scale: size of this body relative to the reference body along x, y, z.
        shift: position in mm of the reference origin.
        waves: three fields of plane waves, the displacement along x, y and z before `displacement` is applied.
        displacement: root-mean-square displacement in mm of the smooth deformation.
    """

    def __init__(
        self,
        affine: np.ndarray,
        size: Sequence[int],
        scale: np.ndarray,
        shift: np.ndarray,
        waves: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
        displacement: float,
    ) -> None:
        self.affine, self.size = affine, tuple(size)
        self.scale, self.shift = scale, shift
        self.world = world_coordinates(affine, size)
        self.coordinates = []
        self.reach = 0.0
        for axis in range(3):
            field = evaluate_waves(waves[axis], affine, size) * np.float32(displacement)
            self.reach = max(self.reach, float(np.abs(field).max()))
            field += self.world[axis]
            field -= np.float32(shift[axis])
            field *= np.float32(1.0 / scale[axis])
            self.coordinates.append(field)
        self.hu = np.full(self.size, -1000.0, dtype=np.float32)
        self.label = np.zeros(self.size, dtype=np.uint8)

    def block(self, low: Point, high: Point) -> Block:
        """Index box that contains every voxel whose anatomical coordinates lie between `low` and `high` (mm)."""
        corners = np.array([low, high], dtype=np.float64) * self.scale + self.shift
        corners += np.array([[-1.0], [1.0]]) * (self.reach + 1.0)
        box = np.stack(np.meshgrid(*corners.T, indexing="ij"), -1).reshape(-1, 3)
        inverse = np.linalg.inv(self.affine)
        index = box @ inverse[:3, :3].T + inverse[:3, 3]
        first = np.clip(np.floor(index.min(0)).astype(int), 0, self.size)
        last = np.clip(np.ceil(index.max(0)).astype(int) + 1, 0, self.size)
        return (slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2]))

    def at(self, block: Block) -> list[np.ndarray]:
        """Anatomical x, y, z inside a block (views)."""
        return [c[block] for c in self.coordinates]

    def paint(self, block: Block, mask: np.ndarray, hu: np.ndarray | float, label: int = 0) -> None:
        """Set HU and class inside `mask`, a boolean array of the block's shape."""
        self.hu[block][mask] = hu[mask] if isinstance(hu, np.ndarray) else hu
        self.label[block][mask] = label

    def field(self, waves: tuple[np.ndarray, np.ndarray, np.ndarray], block: Block) -> np.ndarray:
        """Evaluate a random field on a block only."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [s.start for s in block]
        return evaluate_waves(waves, affine, [s.stop - s.start for s in block])


def ellipsoid(xyz: Sequence[np.ndarray], center: Point, radii: Point, tilt: Sequence[float] = (0.0, 0.0)) -> np.ndarray:
    """Squared normalized radius (< 1 inside). `tilt`: shift of x and of y in mm per mm of height."""
    x, y, z = (c - np.float32(o) for c, o in zip(xyz, center, strict=True))
    if tilt[0]:
        x -= np.float32(tilt[0]) * z
    if tilt[1]:
        y -= np.float32(tilt[1]) * z
    x *= np.float32(1 / radii[0])
    y *= np.float32(1 / radii[1])
    z *= np.float32(1 / radii[2])
    return x * x + y * y + z * z


def tube(xyz: Sequence[np.ndarray], points: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance to a polyline divided by its local radius, with the position along it in mm and the height of its axis.

    Args:
        xyz: coordinates.
        points: corners, (n, 3) in mm.
        radii: radius at every corner in mm.

    Returns:
        Normalized distance (< 1 inside), arc length in mm and y of the nearest axis point.
    """
    best = np.full(xyz[0].shape, np.inf, dtype=np.float32)
    along, axis_y = np.zeros_like(best), np.zeros_like(best)
    start = 0.0
    for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        d = (b - a).astype(np.float32)
        length = float(np.linalg.norm(d))
        offsets = [c - np.float32(o) for c, o in zip(xyz, a, strict=True)]
        t = offsets[0] * d[0] + offsets[1] * d[1] + offsets[2] * d[2]
        t *= np.float32(1 / length**2)
        np.clip(t, 0, 1, out=t)
        distance = sum((o - t * c) ** 2 for o, c in zip(offsets, d, strict=True))
        radius = np.float32(ra) + np.float32(rb - ra) * t
        distance = np.sqrt(distance) / radius
        closer = distance < best
        np.copyto(best, distance, where=closer)
        np.copyto(along, np.float32(start) + np.float32(length) * t, where=closer)
        np.copyto(axis_y, np.float32(a[1]) + d[1] * t, where=closer)
        start += length
    return best, along, axis_y


def smooth_path(points: ArrayLike, per_segment: int = 3) -> np.ndarray:
    """Catmull-Rom curve through the points."""
    p = np.asarray(points, dtype=np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = (np.arange(per_segment) / per_segment)[:, None]
    parts = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True)
    ]
    return np.concatenate([*parts, p[-2:-1]])


class Anatomy:
    """One patient: sizes, positions and HU values drawn from `rng`, ready to be painted on any grid.

    Args:
        rng: random generator.
        variation: multiplies every random size, position and HU offset; 0 gives the reference body.
    """

    def __init__(self, rng: np.random.Generator, variation: float = 1.0) -> None:
        def vary(spread: ArrayLike) -> np.ndarray:
            width = np.asarray(spread, dtype=np.float64)
            return rng.uniform(-1.0, 1.0, size=width.shape) * width * variation

        self.vary = vary
        self.scale = 1.0 + vary(0.045) + vary([0.03, 0.04, 0.05])
        self.shift = vary([6.0, 6.0, 8.0])
        self.fat = 19.0 + float(vary(7.0))
        self.wall = 10.0 + float(vary(2.0))
        # One offset per tissue: contrast phase and patient. A late, weakly enhanced scan of a thin patient:
        # soft tissues
        # differ by about 20 HU, and mesentery and collapsed bowel instead of fat lie between the organs. With
        # strong contrast and fat around every organ a network needs edges only, and 8 HU mean nothing to it.
        phase = float(vary(1.0))
        self.hu = {
            "fat": -104.0 + float(vary(6.0)),
            "mesentery": 62.0,
            "muscle": 64.0 + float(vary(2.0)),
            "liver": 80.0 + 1.0 * phase + float(vary(2.0)),
            "spleen": 81.0 + 1.0 * phase + float(vary(2.0)),
            "cortex": 86.0 + 1.0 * phase + float(vary(2.0)),
            "medulla": 80.0 + 1.0 * phase + float(vary(2.0)),
            "pancreas": 78.0 + 1.0 * phase + float(vary(2.0)),
            "aorta": 86.0 + 1.0 * phase + float(vary(2.0)),
            "vein": 82.0 + 1.0 * phase + float(vary(2.0)),
            "bowel": 60.0 + float(vary(2.0)),
            "cancellous": 190.0 + float(vary(40.0)),
            "cortical": 620.0 + float(vary(100.0)),
        }
        self.deformation = [draw_waves(rng, 16, 130.0, 280.0) for _ in range(3)]
        self.surface = draw_waves(rng, 32, 35.0, 80.0)
        self.bowel = draw_waves(rng, 40, 38.0, 60.0)
        self.vessels = [draw_waves(rng, 40, 45.0, 90.0) for _ in range(2)]
        self.stool = draw_waves(rng, 40, 9.0, 20.0)
        self.fine = draw_waves(rng, 64, 7.0, 16.0)

    def paint(self, affine: np.ndarray, size: Sequence[int], displacement: float) -> Canvas:
        """Paint the patient on a grid; returns the canvas with HU (before scanner effects) and label."""
        canvas = Canvas(affine, size, self.scale, self.shift, self.deformation, displacement)
        self._table(canvas)
        self._wall_and_lungs(canvas)
        self._organs(canvas)
        self._bowel(canvas)
        self._retroperitoneum(canvas)
        self._spine(canvas)
        return canvas

    # The order of painting decides who wins where shapes meet; vary() is called in the same order for every grid.

    def _table(self, canvas: Canvas) -> None:
        x, y, _ = canvas.world
        back = -112.0 * self.scale[1] + self.shift[1] - canvas.reach
        depth = np.float32(back) + x * x * np.float32(1 / 1500.0) - y
        canvas.hu[(depth >= 0) & (depth < 22)] = -930.0
        voxel = float(np.linalg.norm(canvas.affine[:3, :3], axis=0)[:2].mean())
        for shell in (1.0, 23.0):
            canvas.hu += 1150.0 * np.clip((2.5 - np.abs(depth - shell)) / voxel, 0, 1)
        canvas.hu[np.abs(x) > 205] = -1000.0

    def _wall_and_lungs(self, canvas: Canvas) -> None:
        x, y, z = canvas.coordinates
        hu = self.hu
        half_width, half_depth, power = 147.0, 107.0, 2.35
        u, v = np.abs(x) * np.float32(1 / half_width), np.abs(y) * np.float32(1 / half_depth)
        f = (u**power + v**power) ** np.float32(1 / power)
        np.maximum(f, 1e-3, out=f)
        depth = np.sqrt(x * x + y * y) * (1 / f - 1)
        # Radial distance overstates depth where the ray is oblique to the skin; fat is thicker at the flanks and front.
        fat = self.fat * (1.0 + 0.25 * (y > 0) * (y / half_depth) + 0.2 * np.clip(-z / 100.0, -1, 1))
        wall = self.wall * (0.8 + 0.4 * u)
        inner = depth - fat - wall
        # Skin is thinner than a voxel: mix it with its neighbors by the part of the voxel that it fills.
        voxel = np.linalg.norm(canvas.affine[:3, :3], axis=0)[:2].mean()
        into_skin, into_fat = (np.clip((depth - edge) / voxel + 0.5, 0, 1) for edge in (0.0, 2.0))
        inside = into_skin > 0
        np.copyto(canvas.hu, (1020.0 * into_skin - 1000.0) + (hu["fat"] - 20.0) * into_fat, where=inside)
        muscle = (depth > fat) & (inner < 0)
        canvas.hu[muscle] = hu["muscle"]
        # A sheet of fat between the muscle layers of the flank.
        sheet = muscle & (np.abs(inner + 0.45 * wall) < 0.8) & (u > 0.62) & (y > -55) & (z < -15)
        canvas.hu[sheet] = hu["fat"] + 60.0
        canvas.hu[inner >= 0] = hu["mesentery"]
        self.inner = inner

        # Ribs slope down to the front; the costal margin leaves the belly free.
        angle = np.arctan2(y, np.abs(x)) + np.float32(np.pi / 2)
        phase = (z + np.float32(26.0) * angle) / np.float32(24.0) + np.float32(self.vary(0.5))
        phase -= np.floor(phase) + np.float32(0.5)
        across = np.abs(phase) * 24.0
        radial = np.abs(inner + 0.5 * wall)
        rib = muscle & (z > -42 + 34 * angle) & (angle > 0.35) & (angle < 2.6)
        size = (across * (1 / 5.6)) ** 2 + (radial * (1 / 3.9)) ** 2
        canvas.hu[rib & (size < 1)] = 0.75 * hu["cortical"]
        canvas.hu[rib & (size < 0.4)] = hu["cancellous"]

        # Lungs above two domes of the diaphragm, and the heart between them.
        right, left = 88.0 + self.vary(7.0), 80.0 + self.vary(7.0)
        dome_right = np.float32(right) - ((x - 58) ** 2 + (y - 5) ** 2) * np.float32(1 / 115)
        dome_left = np.float32(left) - ((x + 60) ** 2 + (y - 5) ** 2) * np.float32(1 / 115)
        self.diaphragm = np.maximum(dome_right, dome_left)
        above = (inner > 1.5) & (z > self.diaphragm)
        block = canvas.block((-150, -120, 30), (150, 120, 300))
        lung_texture = canvas.field(self.fine, block) * 35 - 845
        vessel = canvas.field(self.stool, block) > 1.9
        lung_texture[vessel] = 20.0
        canvas.paint(block, above[block], lung_texture)
        middle = np.abs(x) < 26 + 0.18 * y
        canvas.hu[above & middle] = hu["mesentery"] + 5
        heart = ellipsoid((x, y, z), (-22, 38, 122), (56, 44, 42))
        heart = above & (heart < 1)
        canvas.hu[heart] = hu["muscle"] + 55
        canvas.hu[(inner > 0) & (np.abs(z - self.diaphragm) < 2.2) & ~heart] = hu["muscle"]

    def _organs(self, canvas: Canvas) -> None:
        hu, vary = self.hu, self.vary
        rough = self.surface

        # Liver: right and left lobe, cut by the diaphragm, the wall and the right kidney.
        block = canvas.block((-95, -95, -75), (140, 105, 130))
        xyz = canvas.at(block)
        bumps = canvas.field(rough, block)
        free = (self.inner[block] > 2.5) & (xyz[2] < self.diaphragm[block] - 4)
        right_center, right_radii = np.array([68, 2, 36]) + vary([5, 5, 8]), np.array([58, 74, 70]) + vary([5, 6, 9])
        left_center, left_radii = np.array([-2, 50, 50]) + vary([9, 5, 8]), np.array([66, 30, 32]) + vary([12, 4, 6])
        right_kidney = np.array([61.0, -42.0, -30.0]) + vary([4, 4, 9])
        kidney_radii = np.array([26.0, 26.0, 53.0]) + vary([2.5, 2.5, 6])
        right_lobe = ellipsoid(xyz, right_center, right_radii) + 0.05 * bumps
        left_lobe = ellipsoid(xyz, left_center, left_radii, (0.0, 0.25)) + 0.09 * bumps
        keep = ellipsoid(xyz, right_kidney, kidney_radii + 5.0, (-0.12, 0.08)) > 1
        keep &= ellipsoid(xyz, (26, -8, -10), (36, 34, 60)) > 1
        keep &= (xyz[0] > 22) | (xyz[1] > 18)
        liver = free & keep & ((right_lobe < 1) | (left_lobe < 1))
        parenchyma = np.full(liver.shape, hu["liver"], dtype=np.float32) + 5 * bumps
        branches = canvas.field(self.vessels[0], block) ** 2 + canvas.field(self.vessels[1], block) ** 2
        parenchyma[branches < 0.022] = hu["vein"] + 12
        canvas.paint(block, liver, parenchyma, LIVER)

        # Gallbladder in a fossa of the liver.
        center = np.array([47, 42, -14]) + vary([6, 5, 6])
        block = canvas.block(center - 30, center + 30)
        gall = ellipsoid(canvas.at(block), center, np.array([13, 20, 16]) + vary([3, 4, 3]), (-0.3, 0.4))
        canvas.paint(block, gall < 1.2, hu["muscle"] + 15)
        canvas.paint(block, gall < 1, 9.0)

        # Spleen, hollowed by stomach and kidney.
        center, radii = np.array([-88, -32, 42]) + vary([4, 6, 7]), np.array([29, 44, 47]) + vary([4, 5, 7])
        block = canvas.block(center - 65, center + 65)
        xyz = canvas.at(block)
        spleen = ellipsoid(xyz, center, radii, (0.15, -0.15)) + 0.07 * canvas.field(rough, block) < 1
        spleen &= (self.inner[block] > 2.5) & (xyz[2] < self.diaphragm[block] - 4)
        spleen &= ellipsoid(xyz, center + [38, 14, -10], (34, 42, 52)) > 1
        canvas.paint(block, spleen, np.full(spleen.shape, hu["spleen"], dtype=np.float32), SPLEEN)

        # Stomach: wall, fluid below and gas above its level (the patient lies on the back).
        center, radii = np.array([-50, 36, 46]) + vary([6, 6, 7]), np.array([36, 32, 40]) + vary([6, 5, 7])
        level = float(center[1] + radii[1] * vary(0.6))
        block = canvas.block(center - 70, center + 70)
        xyz = canvas.at(block)
        stomach = ellipsoid(xyz, center, radii, (-0.25, 0.1)) + 0.1 * canvas.field(rough, block)
        stomach[(canvas.label[block] > 0) | (self.inner[block] < 3) | (xyz[2] > self.diaphragm[block] - 4)] = np.inf
        fluid = 22.0 + 14.0 * canvas.field(self.stool, block)
        canvas.paint(block, stomach < 1, hu["muscle"] + 22)
        canvas.paint(block, stomach < 0.74, fluid)
        canvas.paint(block, (stomach < 0.74) & (xyz[1] > level), -940.0)
        self.stomach_center = center

        # Kidneys: cortex, medulla, and a sinus of fat open to the middle.
        left_kidney = np.array([-61.0, -42.0, -14.0]) + vary([4, 4, 9])
        left_radii = np.array([26.0, 26.0, 53.0]) + vary([2.5, 2.5, 6])
        for side, label, center, radii in (
            (1.0, RIGHT_KIDNEY, right_kidney, kidney_radii),
            (-1.0, LEFT_KIDNEY, left_kidney, left_radii),
        ):
            block = canvas.block(center - 75, center + 75)
            xyz = canvas.at(block)
            tilt = (-0.12 * side, 0.08)
            kidney = ellipsoid(xyz, center, radii, tilt) + 0.04 * canvas.field(rough, block)
            sinus = ellipsoid(xyz, center - [side * 0.62 * radii[0], -4.0, 0.0], radii * [0.62, 0.36, 0.42], tilt)
            whole = (kidney < 1) & (sinus > 1)
            pyramids = canvas.field(self.stool, block) > -0.35
            tissue = np.full(kidney.shape, hu["cortex"], dtype=np.float32)
            tissue[(kidney < 0.56) & pyramids] = hu["medulla"]
            canvas.paint(block, (kidney < 1) & ~whole, hu["mesentery"] - 20)
            pelvis = (sinus < 0.3) & (kidney < 1.3)
            canvas.paint(block, whole, tissue, label)
            canvas.paint(block, pelvis & (canvas.label[block] == 0), 12.0)

        # Pancreas: head in the duodenal loop, body across the aorta, tail to the spleen.
        path = np.array([[31, 6, -22], [29, 10, -6], [12, 22, 4], [-14, 24, 13], [-42, 8, 22], [-70, -12, 31]], float)
        path = smooth_path(path + vary([6, 5, 5]) + vary(np.full((6, 3), 4.0)))
        radii = np.interp(np.linspace(0, 5, len(path)), range(6), np.array([13, 16, 12, 11.5, 11.5, 9.5]) + vary(1.5))
        block = canvas.block((-100, -50, -60), (70, 60, 70))
        distance, _, _ = tube(canvas.at(block), path, radii)
        lobules = canvas.field(self.fine, block)
        pancreas = distance + 0.05 * lobules + 0.06 * canvas.field(rough, block) < 1
        pancreas &= ~np.isin(canvas.label[block], (LEFT_KIDNEY, RIGHT_KIDNEY, SPLEEN))
        canvas.paint(block, pancreas, hu["pancreas"] + 9 * lobules, PANCREAS)

    def _bowel(self, canvas: Canvas) -> None:
        hu, vary = self.hu, self.vary
        # Colon, with haustra; gas collects in front.
        path = np.array(
            [
                [90, -2, -140], [92, 0, -80], [88, 12, -48], [50, 58, -40], [0, 70, -52],
                [-48, 62, -30], [-90, 20, -4], [-97, -8, -40], [-95, -10, -90], [-90, -5, -140],
            ],
            dtype=float,
        )  # fmt: skip
        path += vary(np.broadcast_to([5.0, 5.0, 7.0], path.shape))
        path = smooth_path(path, 2)
        radii = np.interp(np.linspace(0, 1, len(path)), [0, 0.25, 0.6, 1.0], [23, 19, 17, 14]) + float(vary(2.0))
        block = canvas.block((-135, -50, -250), (135, 105, 45))
        xyz = canvas.at(block)
        free = (canvas.label[block] == 0) & (self.inner[block] > 2)
        distance, along, axis_y = tube(xyz, path, radii)
        distance += 0.09 * np.sin(along * np.float32(2 * np.pi / 27.0))
        content = 35.0 + 40.0 * canvas.field(self.stool, block)
        content[canvas.field(self.fine, block) > 1.4] = -350.0
        segments = np.sin(along * np.float32(2 * np.pi / 310.0) + np.float32(vary(3.0)))
        gas = (xyz[1] - axis_y > (0.2 - segments) * 9) & (segments > -0.55)
        colon = free & (distance < 1)
        canvas.paint(block, colon, hu["muscle"] + 10)
        canvas.paint(block, colon & (distance < 0.83), content)
        canvas.paint(block, colon & (distance < 0.83) & gas, -930.0)

        # Small bowel: loops as the level sets of a random field, in the mesenteric fat.
        block = canvas.block((-95, -45, -250), (95, 105, 40))
        xyz = canvas.at(block)
        loops = canvas.field(self.bowel, block)
        free = canvas.hu[block] == np.float32(hu["mesentery"])
        free &= (self.inner[block] > 4) & (xyz[2] < 6 - 0.25 * xyz[1] - 0.2 * xyz[0])
        free &= (np.abs(xyz[0]) < 84) & (xyz[1] > -18)
        loop = free & (np.abs(loops) > 0.22)
        canvas.paint(block, loop, hu["bowel"] + 32)
        lumen = free & (np.abs(loops) > 0.55)
        fluid = hu["bowel"] - 18 + 16 * canvas.field(self.stool, block)
        canvas.paint(block, lumen, fluid)
        canvas.paint(block, free & (loops > 1.55), -920.0)
        # Mesenteric vessels.
        fine = (
            (canvas.field(self.stool, block) > 1.9) & (canvas.hu[block] == np.float32(hu["mesentery"])) & (xyz[1] > -20)
        )
        canvas.paint(block, fine & (self.inner[block] > 8) & (canvas.label[block] == 0), hu["vein"])

    def _retroperitoneum(self, canvas: Canvas) -> None:
        hu, vary = self.hu, self.vary
        # Back muscles, psoas (wider below) and the crura of the diaphragm.
        block = canvas.block((-80, -115, -250), (80, 0, 250))
        x, y, z = canvas.at(block)
        free = canvas.label[block] == 0
        marbling = np.where(canvas.field(self.fine, block) > 1.7, np.float32(hu["fat"] + 70), np.float32(hu["muscle"]))
        back = ((np.abs(x) - 34) / 33) ** 2 + ((y + 74) / 19) ** 2 < 1
        psoas_width = np.clip(16 - 0.14 * z, 0, 24)
        psoas = ((np.abs(x) - 26 - 0.4 * psoas_width) / np.maximum(psoas_width, 1)) ** 2 + ((y + 44) / 17) ** 2 < 1
        quadratus = ((np.abs(x) - 64) / 20) ** 2 + ((y + 76) / 10) ** 2 < 1
        muscle = free & (back | (psoas & (psoas_width > 4)) | (quadratus & (z < 20)))
        crura = free & (z > -10) & (((np.abs(x) - 17) / 6) ** 2 + ((y + 18) / 14) ** 2 < 1)
        canvas.paint(block, muscle & (self.inner[block] > -2), marbling)
        canvas.paint(block, crura, hu["muscle"] + 4)

        # Great vessels in front of the spine; the aorta divides at its lower end.
        aorta_x, aorta_y = -10 + float(vary(3.0)), -12 + float(vary(2.0))
        radius, bend = 10.5 + float(vary(1.5)), float(vary(4.0))
        block = canvas.block((-60, -45, -250), (60, 35, 250))
        x, y, z = canvas.at(block)
        split = np.maximum(-88 - z, 0) * np.float32(0.45)
        across = np.abs(x - aorta_x - bend * np.sin(z * np.float32(1 / 45))) - split
        aorta = across**2 + (y - aorta_y) ** 2 < (radius * np.where(split > 4, 0.72, 1.0)) ** 2
        wins = ~np.isin(canvas.label[block], (LIVER, SPLEEN, LEFT_KIDNEY, RIGHT_KIDNEY))
        cava = ((x - 18 + bend) / (11.5 + vary(2.0))) ** 2 + ((y + 8) / (9.5 + vary(2.0))) ** 2 < 1
        cava &= (z > -100) & (z < 105) & wins & (canvas.label[block] != PANCREAS)
        canvas.paint(block, cava, hu["vein"])
        wall = across**2 + (y - aorta_y) ** 2 < (radius + 2.5) ** 2
        canvas.paint(block, wall & (canvas.label[block] == 0) & ~cava & (z > -88), hu["mesentery"])
        canvas.paint(block, aorta & wins, hu["aorta"] + 2 * canvas.field(self.fine, block), AORTA)
        # Superior mesenteric vessels, in the fat in front of the aorta.
        for offset, key in ((-4.0, "aorta"), (13.0, "vein")):
            mesenteric = (x - offset) ** 2 + (y - 8 - 0.08 * (10 - z)) ** 2 < 4.8**2
            canvas.paint(block, mesenteric & (z < 2) & (z > -75) & (canvas.label[block] == 0), hu[key] - 5)

    def _spine(self, canvas: Canvas) -> None:
        hu, vary = self.hu, self.vary
        period, first = 35.0 + float(vary(2.0)), float(vary(17.0))
        curve = 5.0 + float(vary(3.0))
        block = canvas.block((-55, -115, -250), (55, 5, 250))
        x, y, z = canvas.at(block)
        y = y - np.float32(curve) * np.cos((z + 60) * np.float32(1 / 70)) + np.float32(0.5 * curve)
        level = (z + first) / np.float32(period)
        level = np.abs(level - np.floor(level) - np.float32(0.5)) * np.float32(2 * period / 2)  # 0 at mid body
        half_height = np.float32(period / 2 - 4.0)
        disc = level > half_height
        waist = 1 - 0.11 * np.cos(np.minimum(level / half_height, 1) * np.float32(np.pi / 2)) ** 2
        body = np.sqrt((x / (22.5 * waist)) ** 2 + ((y + 43) / (17.0 * waist)) ** 2)
        canal = np.sqrt((x / 9.5) ** 2 + ((y + 68) / 8.0) ** 2)
        arch = (canal < 1.5) & ~disc
        spinous = (np.abs(x) < 3.6) & (y < -74) & (y > -97) & (np.abs(level - 3) < 11)
        transverse = (np.abs(y + 64) < 4.5) & (np.abs(x) < 38) & (np.abs(x) > 10) & (level < 6.5)
        facets = ((np.abs(x) - 14) / 7) ** 2 + ((y + 71) / 7) ** 2 < 1
        texture = canvas.field(self.fine, block)
        posterior = arch | spinous | transverse | facets
        inside = (body < 1) | posterior | (canal < 1)
        tissue = np.full(inside.shape, hu["cancellous"], dtype=np.float32) + 22 * texture
        tissue[posterior] = 0.62 * hu["cortical"]
        tissue[posterior & (texture > 0.3)] = 1.4 * hu["cancellous"]
        shell = (body < 1) & ((body > 0.88) | (np.abs(level - half_height) < 1.6))
        tissue[(body < 1) & ~shell] = (hu["cancellous"] + 22 * texture)[(body < 1) & ~shell]
        tissue[shell] = 0.8 * hu["cortical"]
        tissue[(body < 1) & disc] = hu["muscle"] + 28
        tissue[canal < 1] = 28.0
        canvas.paint(block, inside & (canvas.hu[block] > -800), tissue, SPINE)
