# SPDX-License-Identifier: Apache-2.0
"""Classes and the groups that they belong to, from fine ("left kidney") to coarse ("organ")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from monai_adversarial.utils.plain import as_plain

__all__ = ["ClassHierarchy"]


class ClassHierarchy:
    """Levels of a segmentation's classes, each a partition that is coarser than the one below.

    >>> from monai_adversarial.metrics import ClassHierarchy
    >>> hierarchy = ClassHierarchy(
    ...     ["background", "left kidney", "right kidney", "liver"],
    ...     [{"kidney": ["left kidney", "right kidney"]}, {"organ": ["kidney", "liver"]}],
    ... )
    >>> [hierarchy.names(level) for level in range(len(hierarchy))][1:]
    [('background', 'kidney', 'liver'), ('background', 'organ')]

    Args:
        class_names: name of every class of the network, in order.
        levels: from fine to coarse: name of each group and its members, which are names of the level below. What is in
            no group of a level stays as it is.

    Raises:
        ValueError: for names that occur twice, no level, unknown members, members of two groups, a group of one or of
            everything (which says nothing), and a group with the name of something else.
    """

    def __init__(self, class_names: Sequence[str], levels: Sequence[Mapping[str, Sequence[str]]]) -> None:
        names = tuple(str(name) for name in class_names) if not isinstance(class_names, (str, Mapping)) else ()
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"class_names must list two or more distinct names, got {class_names!r}.")
        if isinstance(levels, (str, Mapping)) or not levels or not all(isinstance(level, Mapping) for level in levels):
            raise ValueError(f"levels must be a list of mappings of a group's name to its members, got {levels!r}.")
        self._names = [names]
        self._groups = [torch.arange(len(names))]
        self._parents: list[torch.Tensor] = []
        for level in levels:
            self._add(level)

    def _add(self, level: Mapping[str, Sequence[str]]) -> None:
        below = self._names[-1]
        group_of: dict[str, str] = {}
        for group, members in level.items():
            if isinstance(members, str) or len(members) < 2 or len(members) == len(below):
                raise ValueError(
                    f"group {group!r} must list two or more, but not all, of {list(below)}, got {members!r}."
                )
            for member in members:
                if member not in below:
                    raise ValueError(f"group {group!r} holds {member!r}, which is none of {list(below)}.")
                if member in group_of:
                    raise ValueError(f"{member!r} is in two groups, {group_of[member]!r} and {group!r}.")
                group_of[member] = group
        known = {name for names in self._names for name in names}
        if not level or known & set(level):
            raise ValueError(f"each level must name new groups, got {list(level)} above {list(below)}.")
        above = list(dict.fromkeys(group_of.get(name, name) for name in below))
        if len(above) == 1:
            raise ValueError(f"group {above[0]!r} holds every class, which says nothing.")
        parents = torch.tensor([above.index(group_of.get(name, name)) for name in below])
        self._names.append(tuple(above))
        self._parents.append(parents)
        self._groups.append(parents[self._groups[-1]])

    def __len__(self) -> int:
        """Number of levels, that of the classes included."""
        return len(self._names)

    def __repr__(self) -> str:
        return f"ClassHierarchy({' < '.join(str(list(names)) for names in self._names)})"

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self._names[0])

    def names(self, level: int) -> tuple[str, ...]:
        """Names of the groups of a level, in the order of their indices; level 0 holds the classes."""
        return self._names[level]

    def groups(self, level: int) -> torch.Tensor:
        """Index of the group of each class at a level, int64 (class,)."""
        return self._groups[level]

    def parents(self, level: int) -> torch.Tensor:
        """Index at the next level of each group of a level, int64 (group,)."""
        return self._parents[level]

    def sizes(self, level: int) -> torch.Tensor:
        """Number of classes in each group of a level, int64 (group,)."""
        return torch.bincount(self._groups[level], minlength=len(self._names[level]))

    def at_level(self, classes: torch.Tensor, level: int) -> torch.Tensor:
        """A map of classes as a map of the groups of a level; -1 (abstention) stays.

        Args:
            classes: any shape, whole numbers from -1 to the last class.
            level: 0 for the finest.

        Returns:
            int16, same shape.

        Raises:
            ValueError: for classes that the hierarchy does not have.
        """
        indices = as_plain(classes).long()
        if indices.numel() and not -1 <= int(indices.min()) <= int(indices.max()) < self.classes:
            raise ValueError(
                f"classes must be from -1 to {self.classes - 1}, got {int(indices.min())} to {int(indices.max())}."
            )
        table = self._groups[level].to(indices.device)
        return torch.where(indices < 0, indices, table[indices.clamp(min=0)]).to(torch.int16)
