# SPDX-License-Identifier: Apache-2.0
"""Tiny synthetic data for the Model Zoo's bundles, each in the layout that its bundle expects."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.networks.nets import TopologySearch
from PIL import Image


def _rng(seed):
    return np.random.RandomState(seed)


def blobs(shape, labels, seed=0):
    """A label volume: one ellipsoid for each value of ``labels``, in a grid inside a body ellipse."""
    shape = tuple(shape)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, s) for s in shape], indexing="ij"))
    body = (grid[0] / 0.9) ** 2 + (grid[1] / 0.8) ** 2 < 1
    lab = np.zeros(shape, np.uint8)
    r = _rng(seed)
    n = len(labels)
    for k, v in enumerate(labels):
        ang = 2 * np.pi * k / max(n, 1) + r.uniform(-0.2, 0.2)
        rad = 0.42 if n > 1 else 0.2
        c = [rad * np.cos(ang), rad * np.sin(ang)] + [r.uniform(-0.3, 0.3) for _ in shape[2:]]
        ax = [r.uniform(0.18, 0.32) for _ in shape[:2]] + [r.uniform(0.35, 0.6) for _ in shape[2:]]
        if n > 6:
            ax = [a * 0.6 for a in ax]
        lab[sum(((g - ci) / a) ** 2 for g, ci, a in zip(grid, c, ax, strict=True)) < 1] = v
    lab[~body] = 0
    return lab, body


def save_nii(a, path, spacing=(2.0, 2.0, 3.0)):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aff = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])  # stored "LPS": Orientation has work to do
    aff[:3, 3] = [spacing[0] * a.shape[0] / 2, spacing[1] * a.shape[1] / 2, -spacing[2] * a.shape[2] / 2]
    nibabel.save(nibabel.Nifti1Image(a, aff), str(path))


_HU = [55, 120, 165, 95, 30, 75, 140, 200, 10, 110, 180, 65, 300]


def ct(shape, labels, seed=0):
    lab, body = blobs(shape, labels, seed)
    img = np.where(body, 40.0, -1000.0)
    for k, v in enumerate(labels):
        img[lab == v] = _HU[k % len(_HU)] if v < 90 else 400
    img[body] += _rng(seed + 1).normal(0, 12, int(body.sum()))
    return np.clip(img, -1000, 1000).astype(np.int16), lab


def mri(shape, labels, seed=0, scale=400.0):
    lab, body = blobs(shape, labels, seed)
    img = np.where(body, 0.4, 0.0)
    for k, v in enumerate(labels):
        img[lab == v] = 0.55 + 0.4 * ((k * 7) % 10) / 10
    img[body] += _rng(seed + 1).normal(0, 0.03, int(body.sum()))
    return (np.clip(img, 0, None) * scale).astype(np.float32), lab


def msd_ct(folder, labels=(1,), n=2, shape=(48, 48, 32), spacing=(2.0, 2.0, 3.0), test=True):
    folder = Path(folder)
    for i in range(n):
        img, lab = ct(shape, labels, 10 * i)
        save_nii(img, folder / "imagesTr" / f"case_{i}.nii.gz", spacing)
        save_nii(lab, folder / "labelsTr" / f"case_{i}.nii.gz", spacing)
        if test:
            save_nii(img, folder / "imagesTs" / f"case_{i}.nii.gz", spacing)


def decathlon_ct(folder, labels, **kw):
    msd_ct(folder, labels, **kw)
    pairs = [{"image": f"./imagesTr/case_{i}.nii.gz", "label": f"./labelsTr/case_{i}.nii.gz"} for i in range(2)]
    d = {
        "training": pairs,
        "validation": pairs,
        "testing": [{"image": f"./imagesTs/case_{i}.nii.gz"} for i in range(2)],
    }
    (Path(folder) / "dataset_0.json").write_text(json.dumps(d))


def dints_arch(path):
    """A stand-in for ``search_code_18590.pt``: a decoded random search space (what ``search.py`` itself saves)."""
    torch.manual_seed(3)
    s = TopologySearch(channel_mul=0.125, num_blocks=12, num_depths=4, use_downsample=True, device="cpu")
    node_a, arch_code_a, arch_code_c, _ = s.decode()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"node_a": node_a, "arch_code_a": arch_code_a, "arch_code_c": arch_code_c}, path)


def brats(folder, shape=(48, 48, 32)):
    folder = Path(folder)
    items = []
    for i in range(2):
        lab, body = blobs(shape, (2, 1, 4), 5 + i)
        names = []
        for m, mod in enumerate(("t1ce", "t1", "t2", "flair")):
            r = _rng(7 * i + m)
            img = np.where(body, 300.0 + 50 * m, 0.0)
            for v, f in ((1, 0.7), (2, 1.4), (4, 1.9)):
                img[lab == v] *= f * (1 + 0.1 * m)
            img[body] += r.normal(0, 20, int(body.sum()))
            p = f"p{i}/p{i}_{mod}.nii.gz"
            save_nii(np.clip(img, 0, None).astype(np.int16), folder / p, (1.0, 1.0, 1.0))
            names.append(p)
        save_nii(lab, folder / f"p{i}/p{i}_seg.nii.gz", (1.0, 1.0, 1.0))
        items.append({"image": names, "label": f"p{i}/p{i}_seg.nii.gz"})
    (folder / "datalist.json").write_text(
        json.dumps({"training": items, "validation": items, "testing": [{"image": x["image"]} for x in items]})
    )


def prostate(folder):
    folder = Path(folder)
    rows = []
    for i in range(2):
        img, lab = mri((48, 48, 16), (1, 2), 20 + i, 500)
        save_nii(img, folder / f"p{i}" / "t2.nii.gz", (0.5, 0.5, 1.0))
        save_nii(lab, folder / f"p{i}" / "t2_anatomy_reader1.nii.gz", (0.5, 0.5, 1.0))
        rows.append(f"{i},p{i}/t2.nii.gz,p{i}/t2_anatomy_reader1.nii.gz")
    for n in ("test", "train", "valid"):
        (folder / f"{n}.csv").write_text("ID,t2,t2_anatomy_reader1\n" + "\n".join(rows) + "\n")


def ventricular(folder):
    folder = Path(folder)
    ims, segs = [], []
    for i in range(2):
        img, lab = (np.repeat(a[..., None], 5, -1) for a in mri((64, 64), (1, 2, 3), 30 + i, 800))
        save_nii(img, folder / f"sa_{i}.nii.gz", (1.5, 1.5, 8.0))
        ims += list(np.moveaxis(img, -1, 0))
        segs += list(np.moveaxis(lab, -1, 0))
    np.savez(folder / "allimages3label.npz", images=np.stack(ims), segs=np.stack(segs))


def nuclei_rgb(size, n, seed, radius=9):
    r = _rng(seed)
    img = np.zeros((size, size, 3), np.float32) + np.array([225, 190, 215])
    inst = np.zeros((size, size), np.int32)
    yy, xx = np.mgrid[:size, :size]
    cent = []
    g = int(np.ceil(np.sqrt(n)))
    step = size / g
    for k in range(n):
        cy, cx = ((k // g) + 0.5) * step + r.uniform(-2, 2), ((k % g) + 0.5) * step + r.uniform(-2, 2)
        m = ((yy - cy) / radius) ** 2 + ((xx - cx) / (radius * r.uniform(0.7, 1.0))) ** 2 < 1
        inst[m] = k + 1
        img[m] = [110 + 15 * (k % 3), 70, 150]
        cent.append([int(cx), int(cy)])
    img += r.normal(0, 6, img.shape)
    return np.clip(img, 0, 255).astype(np.uint8), inst, cent


def nuclick(folder):
    folder = Path(folder)
    items = []
    for sub in ("Test", "Train"):
        for d in ("Images", "Labels", "Centroids"):
            (folder / sub / d).mkdir(parents=True, exist_ok=True)
        for i in range(2):
            img, inst, cent = nuclei_rgb(128, 4, 40 + i)
            k = 1
            lab = np.where(inst == k, 2, np.where(inst > 0, 255, 0)).astype(np.uint8)
            Image.fromarray(img).save(folder / sub / "Images" / f"n_{i}.png")
            Image.fromarray(lab).save(folder / sub / "Labels" / f"n_{i}.png")
            (folder / sub / "Centroids" / f"n_{i}.txt").write_text(json.dumps([cent[k - 1]]))
            items.append(
                {
                    "image": str(folder / sub / "Images" / f"n_{i}.png"),
                    "label": str(folder / sub / "Labels" / f"n_{i}.png"),
                    "nuclei_id": k,
                    "mask_value": 2,
                    "centroid": cent[k - 1],
                }
            )
    (folder / "dataset.json").write_text(json.dumps({"training": items[2:], "validation": items[:2]}))


def brain(folder):
    folder = Path(folder)
    for i in range(2):
        img, lab = mri((96, 96, 96), tuple(range(1, 13)), 50 + i, 300)
        save_nii(img, folder / "images" / f"b_{i}.nii.gz", (1.0, 1.0, 1.0))
        save_nii(lab, folder / "labels" / f"b_{i}.nii.gz", (1.0, 1.0, 1.0))


def renal_unest(folder):
    folder = Path(folder)
    msd_ct(folder, (1, 2, 3), n=1, shape=(48, 48, 32), spacing=(2, 2, 3), test=False)
    img, _ = ct((48, 48, 32), (1, 2, 3), 0)
    save_nii(img, folder / "case_0.nii.gz", (2, 2, 3))


def cect(folder):
    folder = Path(folder)
    for i in range(2):
        for k, n in enumerate(("12", "22-", "32-")):
            img, lab = ct((48, 48, 32), (1, 2, 3, 4, 5, 6), 60 + i)
            img = np.clip(img.astype(int) + 40 * k * (lab > 0), -1000, 1000).astype(np.int16)
            save_nii(img, folder / f"case{i}" / f"{n}.nii.gz", (1.6, 1.6, 1.6))
        save_nii(lab, folder / f"case{i}" / "merged.nii.gz", (1.6, 1.6, 1.6))


def pediatric(folder):
    decathlon_ct(folder, (1, 2, 3))
    (Path(folder) / "TS_test.json").write_text((Path(folder) / "dataset_0.json").read_text())


def endoscopic(folder):
    for sub in ("train", "val", "test"):
        p = Path(folder) / sub / "seq0"
        p.mkdir(parents=True, exist_ok=True)
        for i in range(2):
            r = _rng(70 + i)
            lab, _ = blobs((96, 128), (1, 2), 70 + i)
            img = np.zeros((96, 128, 3)) + np.array([150, 60, 55])
            img[lab > 0] = [170, 175, 180]
            img += r.normal(0, 8, img.shape)
            Image.fromarray(np.clip(img, 0, 255).astype(np.uint8)).save(p / f"frame{i}.jpg", quality=95)
            Image.fromarray(((lab > 0) * 255).astype(np.uint8)).save(p / f"frame{i}_seg.jpg", quality=100)


def vista3d(folder):
    folder = Path(folder)
    msd_ct(folder, (1,), n=2, shape=(48, 48, 32), spacing=(2, 2, 3))
    (folder / "folds.json").write_text(
        json.dumps(
            {
                "training": [
                    {"image": f"imagesTr/case_{i}.nii.gz", "label": f"labelsTr/case_{i}.nii.gz", "fold": i}
                    for i in range(2)
                ]
            }
        )
    )


def cell(folder):
    img, _, _ = nuclei_rgb(128, 9, 80)
    Image.fromarray(img).save(Path(folder) / "001_img.png")


def luna(folder):
    img, _ = ct((64, 64, 48), (1,), 90)
    folder = Path(folder)
    save_nii(img, folder / "l0.nii.gz", (0.703125, 0.703125, 1.25))
    item = {"image": "l0.nii.gz", "box": [[0.0, 0.0, 0.0, 8.0, 8.0, 8.0]], "label": [0]}
    (folder / "dataset_fold0.json").write_text(json.dumps({"training": [item], "validation": [item]}))


def breast(folder):
    items = []
    for i in range(2):
        img, _ = mri((160, 120), (1, 2), 95 + i, 200)
        p = Path(folder) / f"m{i}.jpg"
        Image.fromarray(np.repeat(np.clip(img, 0, 255).astype(np.uint8)[..., None], 3, -1)).save(p)
        items.append({"image": str(p), "label": [1.0, 0.0, 0.0, 0.0]})
    (Path(folder) / "sample_image_data.json").write_text(json.dumps({"Test": items}))


def hovernet(folder):
    folder = Path(folder)
    for d in ("Images", "Prepared/Test", "Test"):
        (folder / d).mkdir(parents=True, exist_ok=True)
    for i in range(1):
        img, inst, _ = nuclei_rgb(256, 16, 100 + i)
        typ = np.where(inst > 0, 1 + inst % 4, 0)
        Image.fromarray(img).save(folder / "Images" / f"h_{i}.png")
        np.save(folder / "Test" / f"image_{i}.npy", img)
        np.save(folder / "Test" / f"label_{i}.npy", np.stack([inst, typ], -1).astype(np.float32))
        for n, a in (("image", img), ("inst_map", inst[..., None]), ("type_map", typ[..., None])):
            np.save(folder / "Prepared/Test" / f"h_{i}_{n}.npy", a)
