# SPDX-License-Identifier: Apache-2.0
"""The segmentation that a bundle itself gives: its own evaluator on one image, run anew."""

from __future__ import annotations

import os
from typing import Any

import monai
import numpy as np
import torch
from ignite.engine import Events

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.bundle_engine import BundleSource, open_bundle, sentence_of
from monai_adversarial.audit.targets.bundle_items import SeveralFiles, blank_label
from monai_adversarial.audit.targets.bundle_process import bundle_process
from monai_adversarial.models.engine_parts import preprocessing_of

__all__ = ["BundleReference", "segmentation_values"]


class BundleReference:
    """From the path of an image to the segmentation that the unmodified bundle gives.

    The bundle is run a second time, with a network and transforms of its own, its savers left out, and forgotten.

    Args:
        source: the bundle.
        image_key, label_key, pred_key: keys of items and answers.
        several: how several files make an image; None for one file.
        needs_label: give the pipeline a label without foreground.
        masks: several channels are masks that may overlap (sigmoid), and no one-hot classes.
    """

    def __init__(
        self,
        source: BundleSource,
        image_key: str,
        label_key: str,
        pred_key: str,
        several: SeveralFiles | None = None,
        needs_label: bool = False,
        masks: bool = False,
    ) -> None:
        self.source, self.image_key, self.label_key, self.pred_key = source, image_key, label_key, pred_key
        self.several, self.needs_label, self.masks = several, needs_label, masks

    def __call__(self, path: Any) -> Any:
        """Run the bundle on one image.

        Args:
            path: of its file, or paths where an image is several files.

        Returns:
            class map (spatial...), or masks (channel, spatial...) where classes overlap, as an array on the image's own
            grid; None where the bundle answers on another grid.

        Raises:
            TargetError: where the bundle itself fails.
        """
        item = self.item(path)
        live = open_bundle(self.source)
        live.engine.data_loader.dataset.data = [item]  # type: ignore[union-attr]
        kept: list[Any] = []
        live.engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: kept.append(engine.state.output))
        try:
            with bundle_process(self.source.scripts, self.source.trust):
                live.engine.run()
                loaded = preprocessing_of(live.engine)(dict(item))
        except Exception as error:
            raise TargetError(
                f"the bundle {self.source.root.name} itself fails on {path} with MONAI {monai.__version__}: "
                f"{sentence_of(error)}"
            ) from error
        output = kept[0][0] if isinstance(kept[0], list) else {k: v[0] for k, v in kept[0].items()}
        keys = (self.image_key,) if self.several is None else self.several.keys
        image = next((loaded[key] for key in keys if key in loaded), None)
        return _on_own_grid(output[self.pred_key], image, self.masks)

    def item(self, path: Any) -> dict[str, Any]:
        """What the bundle's preprocessing takes, a label without foreground included where it needs one."""
        whole = [os.path.abspath(file) for file in (path if isinstance(path, (list, tuple)) else [path])]
        item: dict[str, Any] = {self.image_key: whole if isinstance(path, (list, tuple)) else whole[0]}
        if self.needs_label:
            item[self.label_key] = blank_label(path, self.source.work)
        return item if self.several is None else self.several.item(item)


def _on_own_grid(answer: Any, image: Any, masks: bool) -> np.ndarray | None:
    """The answer where shape and place are those of the file that the image was loaded from."""
    meta = getattr(image, "meta", {})
    shape, affine = meta.get("spatial_shape"), meta.get("original_affine")
    if shape is None or tuple(answer.shape[1:]) != tuple(int(n) for n in np.asarray(shape).ravel()):
        return None
    own = getattr(answer, "affine", None)
    if own is not None and affine is not None:
        size = min(own.shape[-1], np.asarray(affine).shape[-1])
        if not np.allclose(np.asarray(own)[:size, :size], np.asarray(affine)[:size, :size], atol=1e-3):
            return None
    return segmentation_values(answer, masks)


def segmentation_values(answer: Any, masks: bool) -> np.ndarray:
    """A class map (spatial...), also from one-hot channels; masks (channel, spatial...) as they are."""
    values = torch.as_tensor(answer).detach().cpu().numpy()
    if values.shape[0] == 1:
        return values[0]
    return values if masks else values.argmax(axis=0)
