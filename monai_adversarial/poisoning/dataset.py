# SPDX-License-Identifier: Apache-2.0
"""Datasets with poisoned, added or missing cases, and the manifest that says which."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from monai_adversarial.poisoning.base import Poison
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.validation import check_choice, check_count, check_fraction, check_instance

__all__ = ["DeletedDataset", "PoisonedDataset"]

MODES = ("replace", "add")


class PoisonedDataset(Dataset):
    """A dataset of which an exact share of the cases is poisoned.

    Which cases are chosen depends on ``seed`` alone, and what is done to a case on ``seed`` and its index: order,
    workers, caching and an interrupted run change nothing. The manifest holds indices and settings, no names.

    Source: data added or changed by an attacker (Barreno et al. 2006; Biggio et al. 2012).

    Survey entry: A28 (adapted).

    Example:
        >>> from monai_adversarial.attacks.targets import eroded_organ
        >>> from monai_adversarial.data.example import example_case
        >>> from monai_adversarial.poisoning import LabelEdit, PoisonedDataset
        >>> cases = [{"image": image[0], "label": label[0]} for _, image, label in map(example_case, (20, 24, 28, 32))]
        >>> poisoned = PoisonedDataset(cases, LabelEdit(eroded_organ, organ=2, distance=4.0), rate=0.5)
        >>> len(poisoned), len(poisoned.indices)
        (4, 2)

    Args:
        base: dataset of dictionaries with a length: a list, MONAI's ``Dataset`` or ``CacheDataset``. Transforms that
            make images and labels belong into it, random augmentation around this one.
        poison: what is done to a chosen case.
        rate: share of ``base`` that is chosen, from 0 to 1; the number of cases is rounded to the nearest one.
        seed: see above.
        mode: ``"replace"``, chosen cases are poisoned; ``"add"``, poisoned copies of them come after the clean ones.
        eligible: says of a case whether it may be chosen, for example that it holds an organ; it is asked about every
            case once, when the dataset is made. None: all may.
        mark: key under which every case says whether it is poisoned, for measurements; None for no such key.

    Raises:
        TypeError: for a poison that is none.
        ValueError: for a rate outside 0 to 1, another mode, an empty dataset, or fewer eligible cases than the rate
            asks for.
    """

    def __init__(
        self,
        base: Sequence[Mapping[str, Any]] | Dataset,
        poison: Poison,
        rate: float,
        seed: int = 0,
        mode: str = "replace",
        eligible: Callable[[Mapping[str, Any]], bool] | None = None,
        mark: str | None = None,
    ) -> None:
        self.base, self.mark = base, mark
        self.poison = check_instance("poison", poison, Poison, "LabelEdit(empty_organ, organ=1)")
        self.rate, self.seed = check_fraction("rate", rate), check_count("seed", seed, minimum=0)
        self.mode = check_choice("mode", mode, MODES)
        self.clean_length = _length(base)
        count = round(self.rate * self.clean_length)
        allowed = [
            index
            for index in range(self.clean_length)
            if eligible is None or eligible(base[index])  # type: ignore[index]
        ]
        self.indices = _drawn(allowed, count, self.seed, f"rate={rate:g}")
        self._chosen = set(self.indices)

    def __len__(self) -> int:
        return self.clean_length + (len(self.indices) if self.mode == "add" else 0)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = _checked(index, len(self))
        source, poisoned = index, index in self._chosen and self.mode == "replace"
        if index >= self.clean_length:
            source, poisoned = self.indices[index - self.clean_length], True
        case = dict(self.base[source])  # type: ignore[index]
        if poisoned:
            generator = torch.Generator().manual_seed(_mixed(self.seed, source))
            try:
                case = self.poison(case, generator)
            except (KeyError, TypeError, ValueError) as error:
                # A case that is left clean in silence would make the rate a lie.
                raise type(error)(
                    f"case {source} cannot be poisoned: {error.args[0] if error.args else error}"
                ) from error
        if self.mark is not None:
            case[self.mark] = poisoned
        return case

    @property
    def manifest(self) -> dict[str, Any]:
        """What was done to which cases: plain values for JSON."""
        return {
            "kind": type(self).__name__,
            "cases": self.clean_length,
            "rate": self.rate,
            "seed": self.seed,
            "mode": self.mode,
            "poison": repr(self.poison),
            "indices": self.indices,
        }

    def save_manifest(self, path: str | os.PathLike[str]) -> Path:
        """Write the manifest as JSON; the file appears whole or not at all."""
        return _write(self.manifest, path)

    def check_manifest(self, path: str | os.PathLike[str]) -> None:
        """Raise where this dataset is not the one of a manifest, for a training that goes on.

        Raises:
            ValueError: names the first setting that differs.
        """
        _compare(self.manifest, path)


class DeletedDataset(Dataset):
    """A dataset from which an exact share of the cases is missing.

    Source: deletion of training data (Barreno et al. 2006).

    Survey entry: A28 (adapted).

    Example:
        >>> from monai_adversarial.poisoning import DeletedDataset
        >>> DeletedDataset([{"case": number} for number in range(10)], rate=0.2, scores=list(range(10))).indices
        [8, 9]

    Args:
        base: see :class:`PoisonedDataset`.
        rate: share of the cases that is missing.
        seed: of the choice, where there are no scores.
        scores: one number for each case; those with the highest are missing, for example the hardest cases, or one
            for all cases of a site and zero for the others. None: cases at random.

    Raises:
        ValueError: for a rate outside 0 to 1, scores of another length, or a rate that leaves no case.
    """

    def __init__(
        self,
        base: Sequence[Mapping[str, Any]] | Dataset,
        rate: float,
        seed: int = 0,
        scores: Sequence[float] | None = None,
    ) -> None:
        self.base, self.rate, self.seed = base, check_fraction("rate", rate), check_count("seed", seed, minimum=0)
        length = _length(base)
        count = round(self.rate * length)
        if count >= length:
            raise ValueError(f"rate must leave at least one of {length} cases, got {rate:g}.")
        self.by_score = scores is not None
        if scores is None:
            self.indices = _drawn(list(range(length)), count, self.seed, f"rate={rate:g}")
        else:
            if len(scores) != length:
                raise ValueError(f"scores must hold one number for each of {length} cases, got {len(scores)}.")
            # Of equal scores the later case, whatever the sort does.
            order = sorted(range(length), key=lambda index: (float(scores[index]), index))
            self.indices = sorted(order[length - count :])
        self._kept = [index for index in range(length) if index not in set(self.indices)]

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Any:
        return self.base[self._kept[_checked(index, len(self))]]  # type: ignore[index]

    @property
    def manifest(self) -> dict[str, Any]:
        """Which cases are missing: plain values for JSON."""
        return {
            "kind": type(self).__name__,
            "cases": len(self._kept) + len(self.indices),
            "rate": self.rate,
            "seed": self.seed,
            "by_score": self.by_score,
            "indices": self.indices,
        }

    def save_manifest(self, path: str | os.PathLike[str]) -> Path:
        """Write the manifest as JSON; the file appears whole or not at all."""
        return _write(self.manifest, path)

    def check_manifest(self, path: str | os.PathLike[str]) -> None:
        """See :meth:`PoisonedDataset.check_manifest`."""
        _compare(self.manifest, path)


def _mixed(seed: int, index: int) -> int:
    """A seed for one case: those of neighbors have nothing in common."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _length(base: Any) -> int:
    try:
        length = len(base)
    except TypeError:
        raise TypeError(f"base must be a dataset with a length, got {type(base).__name__}.") from None
    if length == 0:
        raise ValueError("base must hold at least one case, got none.")
    return length


def _drawn(allowed: list[int], count: int, seed: int, asked: str) -> list[int]:
    if count > len(allowed):
        raise ValueError(f"{asked} asks for {count} cases, but {len(allowed)} are eligible.")
    order = torch.randperm(len(allowed), generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(allowed[place] for place in order[:count])


def _checked(index: int, length: int) -> int:
    if not -length <= index < length:
        raise IndexError(f"index must lie within {length} cases, got {index}.")
    return index % length


def _write(manifest: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    with replace_when_complete(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return Path(path)


def _compare(manifest: dict[str, Any], path: str | os.PathLike[str]) -> None:
    written = json.loads(Path(path).read_text(encoding="utf-8"))
    for name, value in manifest.items():
        if written.get(name) != value:
            raise ValueError(f"{name} must be {written.get(name)!r} as in {os.fspath(path)}, got {value!r}.")
