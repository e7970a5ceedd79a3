# SPDX-License-Identifier: Apache-2.0
"""Reference labels in the form that objectives need: hard where possible, soft where labels move with the image."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from monai_adversarial.attacks.objectives.softmax_statistics import class_sums
from monai_adversarial.metrics.dice import class_map_dtype
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.slabs import slabs

__all__ = ["ACTIVATIONS", "Target"]

ACTIVATIONS = ("softmax", "sigmoid")


def _rows_of_rows(outer: slice, inner: slice) -> slice:
    """The slice that ``inner`` makes of what ``outer`` has cut."""
    start = outer.start or 0
    if inner == slice(None):
        return outer
    return slice(start + inner.start, start + inner.stop)


def _voxel_weight(weight: torch.Tensor | None, dimensions: int) -> torch.Tensor | None:
    """(batch, spatial...) weights, from these or from (batch, 1, spatial...)."""
    if weight is None:
        return None
    weight = as_plain(weight)
    return weight[:, 0] if weight.ndim == dimensions and weight.shape[1] == 1 else weight


@dataclass(frozen=True, eq=False)
class Target:
    """Reference of a batch of segmentations.

    Exactly one of ``index`` and ``soft`` is given. Class maps stay indices (memory of one volume instead of one per
    class).

    >>> import torch
    >>> from monai_adversarial.attacks.objectives import Target
    >>> target = Target.from_label(torch.tensor([[[0, 2, 2, 1]]]), classes=3)
    >>> target.one_hot().shape, target.reference_sums(torch.float32).tolist()
    (torch.Size([1, 3, 4]), [[1.0, 1.0, 2.0]])
    >>> Target(classes=1, index=torch.zeros(1, 4, dtype=torch.long))
    Traceback (most recent call last):
    ValueError: ...

    Args:
        classes: number of the network's output channels.
        index: class indices (batch, spatial...), integers of any size.
        soft: probabilities or one-hot (batch, class, spatial...).
        weight: voxel weights >= 0 (batch, spatial...), for example a region mask, boolean or floating point; None for
            all ones.
        class_mask: boolean (class,): the classes that count; None for all. With softmax these are the voxels whose
            reference is one of the classes (and the classes that Dice averages); with sigmoid these are the output
            channels.
        activation: ``"softmax"`` for exclusive classes, ``"sigmoid"`` for independent channels.
        valid: boolean (batch, spatial...), voxels whose reference is known; None for all. Unlike ``weight`` it moves
            with the labels.
        numbers: name -> numbers of each sample, (batch, ...), that an objective has prepared.

    Attributes:
        chosen: the classes of ``class_mask`` as integers; None when all count.
        whole: of a :meth:`part`, the target that it was cut from; None for a whole one.
        rows: of a part, its samples in the whole.
        share: of a part, further voxel weights; see :meth:`part`.

    Raises:
        ValueError: for tensors that do not fit together, an unknown activation, one class with softmax, or a
            ``class_mask`` without classes.
    """

    classes: int
    index: torch.Tensor | None = None
    soft: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    class_mask: torch.Tensor | None = None
    activation: str = "softmax"
    valid: torch.Tensor | None = None
    numbers: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    chosen: tuple[int, ...] | None = field(init=False, default=None, repr=False)
    whole: Target | None = field(init=False, default=None, repr=False)
    rows: slice = field(init=False, default_factory=lambda: slice(None), repr=False)
    share: torch.Tensor | None = field(init=False, default=None, repr=False)
    _constants: dict[Any, Any] = field(init=False, default_factory=dict, repr=False)
    _class_tables: dict[Any, torch.Tensor] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if (self.index is None) == (self.soft is None):
            raise ValueError("Target needs exactly one of index and soft.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {self.activation!r}.")
        if self.classes < 1:
            raise ValueError(f"classes must be >= 1, got {self.classes}.")
        if self.classes == 1 and self.activation == "softmax":
            raise ValueError("activation='softmax' needs at least 2 output channels, got 1: use activation='sigmoid'.")
        if self.soft is not None:
            self._check_soft(self.soft, self.soft.ndim)
        if self.index is not None and (self.index.is_floating_point() or self.index.dtype == torch.bool):
            raise ValueError(f"index must hold integers, got {self.index.dtype}.")
        self._check_weight(self.weight)
        if self.class_mask is not None:
            if self.class_mask.dtype != torch.bool or tuple(self.class_mask.shape) != (self.classes,):
                raise ValueError(
                    f"class_mask must be boolean with shape ({self.classes},), "
                    f"got {self.class_mask.dtype} with shape {tuple(self.class_mask.shape)}."
                )
            # Read once, here: objectives then know without waiting for the device which classes count.
            chosen = tuple(number for number, counts in enumerate(self.class_mask.tolist()) if counts)
            if not chosen:
                raise ValueError("class_mask must select at least one class, got none.")
            object.__setattr__(self, "chosen", chosen if len(chosen) < self.classes else None)

    def _check_soft(self, soft: torch.Tensor, dimensions: int) -> None:
        if soft.ndim != dimensions or soft.shape[1] != self.classes:
            raise ValueError(f"soft must have shape (batch, {self.classes}, spatial...), got {tuple(soft.shape)}.")

    def _check_weight(self, weight: torch.Tensor | None) -> None:
        if weight is not None and weight.shape != self.voxel_shape:
            raise ValueError(
                f"weight must have shape {tuple(self.voxel_shape)} to fit the reference, got {tuple(weight.shape)}."
            )

    @classmethod
    def from_label(
        cls,
        label: torch.Tensor,
        classes: int,
        activation: str = "softmax",
        weight: torch.Tensor | None = None,
        class_mask: torch.Tensor | None = None,
    ) -> Target:
        """Read a class map (batch, 1, spatial...) or one-hot (batch, class, spatial...) label, already checked.

        ``weight`` may have shape (batch, spatial...) or (batch, 1, spatial...).
        """
        label, weight = as_plain(label), _voxel_weight(weight, label.ndim)
        if activation == "softmax":
            # max is several times faster than argmax over the class dimension on the CPU
            index = (label[:, 0] if label.shape[1] == 1 else label.max(dim=1).indices).to(class_map_dtype(classes))
            return cls(classes, index=index, weight=weight, class_mask=class_mask)
        if label.shape[1] == 1 and classes > 1:
            index = label[:, 0].to(class_map_dtype(classes))
            return cls(classes, index=index, weight=weight, class_mask=class_mask, activation=activation)
        soft = label if label.is_floating_point() else label.to(torch.uint8)
        return cls(classes, soft=soft, weight=weight, class_mask=class_mask, activation=activation)

    def part(
        self, rows: slice = slice(None), where: tuple[slice, ...] = (), share: torch.Tensor | None = None
    ) -> Target:
        """Some samples and a box of voxels, whose weights are still in proportion to those of the whole.

        Sums over the voxels of parts that cover the volume once add up to those of the whole; where parts overlap,
        ``share`` says how much of each voxel belongs to this one.

        Args:
            rows: samples.
            where: box of voxels, one slice per spatial axis; empty for all.
            share: further weights (batch or 1, spatial...) of the box's voxels; None for ones.
        """

        def cut(tensor: torch.Tensor | None, leading: int) -> torch.Tensor | None:
            return None if tensor is None else tensor[(rows, *[slice(None)] * (leading - 1), *where)]

        own = self.share
        if own is not None:
            own = own[(rows if own.shape[0] > 1 else slice(None), *where)]
        if share is not None:
            own = share if own is None else own * share
        return self._with(
            index=cut(self.index, 1),
            soft=cut(self.soft, 2),
            weight=cut(self.weight, 1),
            valid=cut(self.valid, 1),
            numbers={name: numbers[rows] for name, numbers in self.numbers.items()},
            whole=self.whole or self,
            rows=_rows_of_rows(self.rows, rows),
            share=own,
        )

    def reference_sums(self, dtype: torch.dtype) -> torch.Tensor:
        """Weighted number of voxels of each class, (batch, class): of the whole volume, also for a part of it."""
        whole = self.whole or self
        return whole.constant(("reference_sums", dtype), lambda: whole._reference_sums(dtype))[self.rows]

    def _reference_sums(self, dtype: torch.dtype) -> torch.Tensor:
        total = torch.zeros(self.voxel_shape[0], self.classes, dtype=torch.float64, device=self.device)
        region = self.region(dtype)
        for where in slabs(self.voxel_shape[1:], self.voxel_shape[0]):
            box = (slice(None), *where)
            weight = None if region is None else region[box]
            if self.index is not None:
                index = self.index[box].long()
                ones = torch.ones_like(index, dtype=dtype) if weight is None else weight
                total += class_sums(ones, index, self.classes)
            else:
                assert self.soft is not None
                soft = self.soft[(slice(None), *box)].to(dtype)
                total += (soft if weight is None else soft * weight.unsqueeze(1)).flatten(2).sum(dim=2)
        return total.to(dtype)

    def region_sum(self, dtype: torch.dtype) -> torch.Tensor:
        """Sum of the voxel weights, (batch,): of the whole volume, also for a part of it."""
        whole = self.whole or self

        def add() -> torch.Tensor:
            region = whole.region(dtype)
            if region is None:
                voxels = math.prod(whole.voxel_shape[1:])
                return torch.full((whole.voxel_shape[0],), voxels, dtype=dtype, device=whole.device)
            return region.flatten(1).sum(dim=1)

        return whole.constant(("region_sum", dtype), add)[self.rows]

    @property
    def voxel_shape(self) -> torch.Size:
        """(batch, spatial...)."""
        if self.index is not None:
            return self.index.shape
        assert self.soft is not None
        return torch.Size((self.soft.shape[0], *self.soft.shape[2:]))

    def with_soft(self, soft: torch.Tensor, weight: torch.Tensor | None = None) -> Target:
        """The same target with moved labels (and a moved region); for every step: it never waits for the device."""
        self._check_soft(soft, len(self.voxel_shape) + 1)
        moved = self._with(index=None, soft=as_plain(soft))
        weight = self.weight if weight is None else _voxel_weight(weight, soft.ndim)
        moved._check_weight(weight)
        return moved._with(weight=weight)

    def with_index(self, index: torch.Tensor) -> Target:
        """The same target with moved class indices (batch, spatial...), which stay hard."""
        return self._with(index=index)

    def with_numbers(self, **numbers: torch.Tensor) -> Target:
        """The same target with more numbers of each sample, (batch, ...)."""
        return self._with(numbers={**self.numbers, **numbers})

    def with_voxels_of(self, other: Target, voxels: torch.Tensor | None = None) -> Target:
        """The same reference where another target of the same batch counts: its region and known voxels.

        Args:
            other: the other target.
            voxels: boolean (batch, spatial...), the voxels that count instead of the other's region; None for that.
        """
        weight = other.weight if voxels is None else voxels
        self._check_weight(weight)
        return self._with(weight=weight, valid=other.valid)

    def with_valid(self, valid: torch.Tensor) -> Target:
        """The same target with other known voxels, boolean (batch, spatial...)."""
        self._check_weight(valid)
        return self._with(valid=valid)

    def select(self, indices: torch.Tensor) -> Target:
        """The same target for some of its samples; ``indices`` is int64 on the target's device."""
        return self._with(
            **{
                name: None if part is None else part.index_select(0, indices)
                for name, part in (
                    ("index", self.index),
                    ("soft", self.soft),
                    ("weight", self.weight),
                    ("valid", self.valid),
                )
            },
            numbers={name: numbers.index_select(0, indices) for name, numbers in self.numbers.items()},
        )

    def only_chosen(self) -> Target:
        """For independent channels: the same target without the channels that do not count."""
        chosen = self.chosen
        if chosen is None:
            return self

        def narrow() -> Target:
            soft = (self.one_hot(torch.uint8) if self.soft is None else self.soft).index_select(1, self.chosen_index())
            whole = None if self.whole is None else self.whole.only_chosen()
            return self._with(classes=len(chosen), index=None, soft=soft, class_mask=None, chosen=None, whole=whole)

        return self.constant("only_chosen", narrow)

    def chosen_index(self) -> torch.Tensor:
        """``chosen`` as an int64 tensor on the target's device (all classes where all count)."""
        numbers = tuple(self.chosen or range(self.classes))
        return self.class_table(numbers, lambda: torch.tensor(numbers, device=self.device))

    @property
    def device(self) -> torch.device:
        """Where the reference lives."""
        reference = self.soft if self.index is None else self.index
        assert reference is not None
        return reference.device

    def one_hot(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Reference as (batch, class, spatial...)."""
        if self.soft is not None:
            return self.soft.to(dtype)
        assert self.index is not None
        if self.classes == 1:
            return self.index.unsqueeze(1).to(dtype)
        return _one_hot(self.index, self.classes, dtype)

    def region(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Voxel weights (batch, spatial...) in ``dtype``, 0 where the reference is not known; None for all ones."""
        if self.share is not None:
            rest = self._with(share=None).region(dtype)
            return self.share.to(dtype).expand(self.voxel_shape) if rest is None else rest * self.share
        weight, valid = self.weight, self.valid
        if valid is not None:
            return self.constant(
                ("region", dtype), lambda: valid.to(dtype) if weight is None else weight.to(dtype) * valid
            )
        if weight is None or weight.dtype == dtype:
            return weight
        return self.constant(("region", dtype), lambda: weight.to(dtype))

    def constant(self, key: Any, make: Callable[[], Any]) -> Any:
        """Make once what does not change during an attack; keep nothing where a gradient flows into the reference."""
        moving = any(part is not None and part.requires_grad for part in (self.soft, self.weight))
        if moving or torch.is_inference_mode_enabled():
            return make()
        if key not in self._constants:
            self._constants[key] = make()
        return self._constants[key]

    def class_table(self, key: Any, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """A small tensor that depends on the choice of classes alone, sent to the device once and not in every step."""
        if torch.is_inference_mode_enabled():
            return make()
        if key not in self._class_tables:
            self._class_tables[key] = make()
        return self._class_tables[key]

    def _with(self, **changes: Any) -> Target:
        """A copy with other fields; it does not read class_mask again, which would wait for the device."""
        made = copy.copy(self)
        object.__setattr__(made, "_constants", {})
        if "classes" in changes:
            object.__setattr__(made, "_class_tables", {})
        for name, value in changes.items():
            object.__setattr__(made, name, value)
        return made


def _one_hot(index: torch.Tensor, classes: int, dtype: torch.dtype) -> torch.Tensor:
    """Class indices as (batch, class, spatial...), without the int64 copy per class that F.one_hot makes."""
    numbers = torch.arange(classes, device=index.device).view(1, -1, *([1] * (index.ndim - 1)))
    return (index.unsqueeze(1) == numbers).to(dtype)
