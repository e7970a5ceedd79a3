# SPDX-License-Identifier: Apache-2.0
"""The process of one row of ``model_zoo.py``: before MONAI looks for torchvision, it is made to import."""

from __future__ import annotations

import sys

import torch

__all__: list[str] = []


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


if __name__ == "__main__":
    stub_torchvision()
    from benchmarks.model_zoo import main

    sys.exit(main())
