# SPDX-License-Identifier: Apache-2.0
"""Makes torchvision import where its compiled operators do not fit this torch (a CUDA build beside a CPU torch).

MONAI and several libraries import it for parts of it that are plain Python. Called before MONAI is imported.
"""

from __future__ import annotations

import sys

import torch

__all__ = ["stub_torchvision"]


def stub_torchvision() -> None:
    """Declare torchvision's compiled operators where they do not fit this torch, so that its Python parts import."""
    try:
        import torchvision  # noqa: F401

        return
    except ModuleNotFoundError:
        return
    except Exception:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for name in ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"):
        for variant in (name, f"q{name}", f"_{name}_backward"):
            library.define(f"{variant}(Tensor x) -> Tensor")
    library.define("_cuda_version(Tensor x) -> Tensor")
    stub_torchvision.library = library  # type: ignore[attr-defined]
