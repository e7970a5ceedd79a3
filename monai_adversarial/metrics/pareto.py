# SPDX-License-Identifier: Apache-2.0
"""Which defenses are worth their price: the front of robustness, accuracy and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["ParetoTable"]


class ParetoTable:
    """Rows of which no other is at least as good in everything and better in something, and those that are beaten.

    >>> from monai_adversarial.metrics import ParetoTable
    >>> table = ParetoTable(
    ...     {
    ...         "plain": {"clean": 0.9, "robust": 0.1, "cost": 1.0},
    ...         "adversarial training": {"clean": 0.8, "robust": 0.6, "cost": 8.0},
    ...         "worse": {"clean": 0.8, "robust": 0.5, "cost": 9.0},
    ...     }
    ... )
    >>> table.front, table.beaten_by("worse")
    (('plain', 'adversarial training'), ('adversarial training',))

    Args:
        rows: name -> numbers by name.
        maximize: numbers of which more is better.
        minimize: numbers of which less is better, such as the cost of training relative to the undefended network.

    Raises:
        ValueError: for no rows, and for a number that is missing, NaN or infinite.

    Source: textbook.

    Survey entry: M12 (own).
    """

    def __init__(
        self,
        rows: Mapping[str, Mapping[str, float]],
        maximize: Sequence[str] = ("clean", "robust"),
        minimize: Sequence[str] = ("cost",),
    ) -> None:
        self.columns = (*maximize, *minimize)
        if not rows or not self.columns or len(set(self.columns)) < len(self.columns):
            raise ValueError(
                f"rows must hold one or more, of distinct numbers to maximize or minimize, got {len(rows)} rows and "
                f"{list(self.columns)}."
            )
        for name, row in rows.items():
            for column in self.columns:
                value = row.get(column)
                if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
                    raise ValueError(f"rows[{name!r}] must hold a finite number {column!r}, got {value!r}.")
        self.rows = {name: {column: float(row[column]) for column in self.columns} for name, row in rows.items()}
        self._signs = {column: 1.0 if column in maximize else -1.0 for column in self.columns}

    def beaten_by(self, name: str) -> tuple[str, ...]:
        """The rows that are at least as good in every number, and better in one.

        Args:
            name: of the row.
        """
        return tuple(other for other in self.rows if self._beats(self.rows[other], self.rows[name]))

    def _beats(self, one: Mapping[str, float], other: Mapping[str, float]) -> bool:
        ahead = [sign * (one[column] - other[column]) for column, sign in self._signs.items()]
        return min(ahead) >= 0 and max(ahead) > 0

    @property
    def front(self) -> tuple[str, ...]:
        """The rows that none beats, in their order."""
        return tuple(name for name in self.rows if not self.beaten_by(name))

    def __str__(self) -> str:
        """A table in Markdown, with what each row is beaten by."""
        lines = [f"| | {' | '.join(self.columns)} | on the front |", "|---" * (len(self.columns) + 2) + "|"]
        for name, row in self.rows.items():
            beaten = self.beaten_by(name)
            says = f"no: {', '.join(beaten)}" if beaten else "yes"
            lines.append(f"| {name} | {' | '.join(f'{row[column]:.3g}' for column in self.columns)} | {says} |")
        return "\n".join(lines)
