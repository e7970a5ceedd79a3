# SPDX-License-Identifier: Apache-2.0
"""Whether two defenses or attacks differ on the same patients: paired tests, corrected for their number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np
from scipy import stats

from monai_adversarial.metrics.dice import mean_of_defined
from monai_adversarial.utils.validation import check_choice, check_count

__all__ = ["PairedTest", "by_patient", "compare_paired", "holm", "paired_test"]

METHODS = ("wilcoxon", "permutation")


class PairedTest(TypedDict):
    """One comparison; NaN where it is not defined.

    ``first`` and ``second`` are names, ``n`` the patients with both values, ``mean_difference`` that of first minus
    second, ``p`` the two-sided p-value, and ``p_holm`` the one that holds for all comparisons of a family together.

    >>> from monai_adversarial.metrics import compare_paired
    >>> sorted(compare_paired({"a": {"anna": 0.5}, "b": {"anna": 0.25}})[0])
    ['first', 'mean_difference', 'n', 'p', 'p_holm', 'second']
    """

    first: str
    second: str
    n: int
    mean_difference: float
    p: float
    p_holm: float


def by_patient(values: Iterable[float | None], patients: Sequence[str]) -> dict[str, float]:
    """Mean of each patient's cases, so that a patient with many scans counts once.

    >>> from monai_adversarial.metrics import by_patient
    >>> by_patient([0.5, 1.0, 0.25], ["anna", "anna", "ben"])
    {'anna': 0.75, 'ben': 0.25}

    Args:
        values: one per case; None and NaN are left out.
        patients: name of each case's patient.

    Returns:
        Patient -> mean; NaN where a patient has no defined value.

    Raises:
        ValueError: for different lengths.

    Source: textbook.

    Survey entry: M14 (own).
    """
    cases = list(values)
    if len(cases) != len(patients):
        raise ValueError(f"patients must name the patient of each of {len(cases)} values, got {len(patients)}.")
    of_patient: dict[str, list[float | None]] = {}
    for value, patient in zip(cases, patients, strict=True):
        of_patient.setdefault(str(patient), []).append(value)
    return {patient: mean_of_defined(own) for patient, own in of_patient.items()}


def paired_test(
    first: Mapping[str, float],
    second: Mapping[str, float],
    method: str = "wilcoxon",
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[int, float, float]:
    """Two-sided paired test over patients.

    >>> from monai_adversarial.metrics import paired_test
    >>> before = {str(patient): 0.9 for patient in range(6)}
    >>> after = {str(patient): 0.8 - 0.01 * patient for patient in range(6)}
    >>> paired_test(before, after)
    (6, 0.125..., 0.03125)

    Args:
        first: patient -> value.
        second: patient -> value. Patients that lack one of both, or have NaN, are left out.
        method: ``"wilcoxon"``, the signed-rank test of SciPy, patients without a difference left out; or
            ``"permutation"``, SciPy's paired permutation of the mean difference, exact where it can be.
        resamples: of the permutation test; all 2**n permutations where they are no more.
        seed: of the permutations.

    Returns:
        Number of patients, mean difference (first minus second) and p-value. The p-value is 1 where no patient differs;
        NaN stands for no patients.

    Raises:
        ValueError: for an unknown method or no resamples.

    Source: Wilcoxon, "Individual comparisons by ranking methods", 1945; textbook.

    Survey entry: M14 (published).
    """
    check_choice("method", method, METHODS)
    check_count("resamples", resamples)
    shared = [patient for patient in first if patient in second]
    pairs = [(float(first[patient]), float(second[patient])) for patient in shared]
    table = np.asarray([pair for pair in pairs if not (math.isnan(pair[0]) or math.isnan(pair[1]))], dtype=float)
    if not len(table):
        return 0, math.nan, math.nan
    difference = table[:, 0] - table[:, 1]
    mean = float(difference.mean())
    if not difference.any():
        return len(difference), mean, 1.0
    if method == "wilcoxon":
        return len(difference), mean, float(stats.wilcoxon(difference).pvalue)
    found = stats.permutation_test(
        (table[:, 0], table[:, 1]),
        lambda one, other, axis: (one - other).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        random_state=np.random.default_rng(seed),
    )
    return len(difference), mean, float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values that hold for all tests together (Holm's step-down correction).

    >>> from monai_adversarial.metrics import holm
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Args:
        p_values: one per test; NaN is no test and stays.

    Raises:
        ValueError: for values outside 0 to 1.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Survey entry: M14 (published).
    """
    known = [(float(p), place) for place, p in enumerate(p_values) if not math.isnan(p)]
    if any(not 0.0 <= p <= 1.0 for p, _ in known):
        raise ValueError(f"p_values must lie between 0 and 1, got {list(p_values)}.")
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(sorted(known)):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[place] = largest
    return corrected


def compare_paired(
    results: Mapping[str, Mapping[str, float]],
    baseline: str | None = None,
    method: str = "wilcoxon",
    resamples: int = 9999,
    seed: int = 0,
) -> list[PairedTest]:
    """Paired tests between several results on the same patients, with Holm's correction over all of them.

    >>> from monai_adversarial.metrics import compare_paired
    >>> patients = [str(number) for number in range(8)]
    >>> plain = dict(zip(patients, [0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.2, 0.1]))
    >>> trained = {patient: value + 0.3 + 0.01 * int(patient) for patient, value in plain.items()}
    >>> (row,) = compare_paired({"plain": plain, "trained": trained}, baseline="plain")
    >>> row["first"], row["n"], row["p_holm"]
    ('trained', 8, 0.0078125)

    Args:
        results: name -> patient -> value; see :func:`by_patient`.
        baseline: each other result is compared with this one; None for all pairs.
        method, resamples, seed: see :func:`paired_test`.

    Raises:
        ValueError: for fewer than two results, and a baseline that is none of them.

    Source: textbook.

    Survey entry: M14 (published).
    """
    names = list(results)
    if len(names) < 2 or (baseline is not None and baseline not in results):
        raise ValueError(f"results must hold two or more, the baseline among them, got {names} and {baseline!r}.")
    if baseline is None:
        pairs = list(itertools.combinations(names, 2))
    else:
        pairs = [(name, baseline) for name in names if name != baseline]
    found = [paired_test(results[one], results[other], method, resamples, seed) for one, other in pairs]
    corrected = holm([p for _, _, p in found])
    return [
        PairedTest(first=one, second=other, n=n, mean_difference=mean, p=p, p_holm=p_holm)
        for (one, other), (n, mean, p), p_holm in zip(pairs, found, corrected, strict=True)
    ]
