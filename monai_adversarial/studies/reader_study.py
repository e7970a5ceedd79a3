# SPDX-License-Identifier: Apache-2.0
"""A reader study: can people tell an attacked image from the clean one beside it?"""

from __future__ import annotations

import csv
import math
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from scipy.stats import binomtest, norm

from monai_adversarial.metrics.paired import holm
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.shown_window import check_shown_window
from monai_adversarial.utils.validation import check_fraction

__all__ = ["ReaderResult", "analyze_reader_study", "export_reader_study"]

SIDES = ("A", "B")
IMAGES, SHEET, KEY = "for_readers", "answers.csv", "key.csv"
SHEET_COLUMNS = ("trial", "reader", "answer")
KEY_COLUMNS = ("trial", "attacked", "case", "slice")


class ReaderResult(TypedDict):
    """What one reader could tell; see :func:`analyze_reader_study`.

    >>> from monai_adversarial.studies import ReaderResult
    >>> sorted(ReaderResult.__annotations__)[:4]
    ['correct', 'd_prime', 'high', 'low']

    Args:
        trials: answers that were given.
        unanswered: rows of the sheet without an answer; they count nowhere else.
        correct: right answers.
        share: ``correct`` / ``trials``; 0.5 is guessing.
        low: lower end of the exact interval (Clopper and Pearson) of the share.
        high: upper end.
        p_value: exact binomial test of guessing, two-sided.
        p_value_holm: the same, corrected for the number of readers.
        d_prime: sqrt(2) times the normal quantile of the share; infinite where all or no answers are right.
    """

    trials: int
    unanswered: int
    correct: int
    share: float
    low: float
    high: float
    p_value: float
    p_value_holm: float
    d_prime: float


def export_reader_study(
    pairs: Iterable[Any],
    folder: str | os.PathLike[str],
    window: Sequence[float],
    axis: int = -1,
    readers: Sequence[str] = ("reader 1",),
    seed: int | None = None,
) -> Path:
    """Write pairs of pictures, an empty answer sheet, and the key that is kept from the readers.

    Two-alternative forced choice: of each trial a reader sees the pictures A and B, the same slice of the clean and of
    the attacked image, and answers which one was attacked. The slice is the one that the attack changed most within the
    window, so that the reader gets the best chance. Slices are turned as radiologists look at a volume in RAS; images
    with two spatial dimensions stay as they are. Order of the trials and sides are drawn at random.

    Everything in the folder ``for_readers`` may be handed out: pictures without metadata, all of one size in bytes for
    one size in pixels and with one time stamp, named by trial alone, and ``answers.csv``, which people fill in.
    ``key.csv`` beside it must not be. Names of patients or files are nowhere written; text that is burned into the
    voxels stays in the pictures.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.studies import export_reader_study
    >>> result = PGD(8, units="HU", steps=3)(*example_case(16))
    >>> folder = Path(tempfile.mkdtemp()) / "study"
    >>> key = export_reader_study([(result.image, result.adversarial)], folder, window=(-160, 240))
    >>> sorted(path.name for path in (folder / "for_readers").iterdir())
    ['answers.csv', 'trial_1_A.png', 'trial_1_B.png']

    Args:
        pairs: of a clean and an attacked image each, (batch, 1, spatial...) or (1, spatial...), two or three spatial
            dimensions; every sample is a trial.
        folder: is made; must not hold a study yet.
        window: (low, high) of the values that are black and white, in the units of the images.
        axis: along which slices are taken, among the spatial dimensions.
        readers: names under which answers are kept, for example numbers; no rows are made for anybody else.
        seed: of the order; None (the default) draws one that nobody knows. With a seed that a reader knows, the reader
            can draw the key as well.

    Returns:
        Path of the key.

    Raises:
        ValueError: for images that are no pairs, NaN, an equal pair, an axis that is none, no pair, and readers that
            are not distinct.
        FileExistsError: where the folder holds a key already.

    Source: textbook: two-alternative forced choice.

    Survey entry: M10 (own).
    """
    shown = check_shown_window(window)
    if shown is None:
        raise ValueError("window must be (low, high) in the units of the images, got None.")
    names = [str(reader) for reader in readers] if not isinstance(readers, str) else []
    if not names or len(set(names)) < len(names):
        raise ValueError(f"readers must list distinct names, at least one, got {readers!r}.")
    trials = [
        (case, *_slices(clean, attacked, shown, axis)) for case, (clean, attacked) in enumerate(_samples(pairs), 1)
    ]
    if not trials:
        raise ValueError("pairs must hold at least one pair of a clean and an attacked image, got none.")
    root = Path(folder)
    if (root / KEY).exists():
        raise FileExistsError(f"folder must be new, but {root} holds a {KEY} already: its study would lose its key.")
    draw = np.random.default_rng(secrets.randbits(128) if seed is None else seed)
    order, first = draw.permutation(len(trials)), draw.integers(0, 2, len(trials))
    (root / IMAGES).mkdir(parents=True, exist_ok=True)
    digits = len(str(len(trials)))
    key = []
    for number, (place, attacked_first) in enumerate(zip(order.tolist(), first.tolist(), strict=True), 1):
        case, index, clean, attacked = trials[place]
        pictures = (attacked, clean) if attacked_first else (clean, attacked)
        for side, picture in zip(SIDES, pictures, strict=True):
            _write(root / IMAGES / f"trial_{number:0{digits}d}_{side}.png", picture)
        key.append((number, SIDES[0] if attacked_first else SIDES[1], case, index))
    _write_rows(root / KEY, KEY_COLUMNS, key)
    _write_rows(root / IMAGES / SHEET, SHEET_COLUMNS, [(number, reader, "") for reader in names for number, *_ in key])
    return root / KEY


def _samples(pairs: Iterable[Any]) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """Each pair of two (spatial...), float64."""
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"pairs must hold a clean and an attacked image each, got {type(pair).__name__}.")
        clean, attacked = (as_plain(torch.as_tensor(part)).detach().cpu().double() for part in pair)
        if clean.shape != attacked.shape or clean.ndim not in (3, 4, 5):
            raise ValueError(
                "pairs must hold a clean and an attacked image of one shape (batch, 1, spatial...), got "
                f"{tuple(clean.shape)} and {tuple(attacked.shape)}."
            )
        if not (bool(clean.isfinite().all()) and bool(attacked.isfinite().all())):
            raise ValueError("pairs must hold finite values, got NaN or infinite ones.")
        has_batch = clean.ndim == 5 or (clean.ndim == 4 and clean.shape[1] == 1)
        channel = 1 if has_batch else 0
        if clean.shape[channel] != 1:
            raise ValueError(f"pairs must hold images of one channel, got {tuple(clean.shape)}.")
        rows = (clean, attacked) if has_batch else (clean[None], attacked[None])
        yield from zip(rows[0][:, 0], rows[1][:, 0], strict=True)


def _slices(
    clean: torch.Tensor, attacked: torch.Tensor, window: tuple[float, float], axis: int
) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of the slice that was changed most, and both pictures of it, 8 bits."""
    low, high = window
    before, after = (
        ((volume.clamp(low, high) - low) / (high - low) * 255).round().to(torch.uint8) for volume in (clean, attacked)
    )
    if clean.ndim == 2:
        place = 0
    else:
        if isinstance(axis, bool) or not isinstance(axis, int) or not -clean.ndim <= axis < clean.ndim:
            raise ValueError(f"axis must be one of {clean.ndim} spatial dimensions, got {axis!r}.")
        before, after = before.movedim(axis, 0), after.movedim(axis, 0)
        change = (after.double() - before.double()).square().flatten(1).sum(dim=1)
        place = int(change.argmax())
        # as radiologists look at an axial slice of a volume in RAS: anterior above, the patient's right on the left
        before, after = (volume[place].flip(0, 1).T for volume in (before, after))
    if torch.equal(before, after):
        raise ValueError(
            "pairs must differ in the window that is shown, but the pictures of one are equal in every slice: nobody "
            "can tell them apart, and a study of them says nothing."
        )
    return place, before.numpy(), after.numpy()


def _write(path: Path, picture: np.ndarray) -> None:
    """Without metadata and without compression: noise makes a compressed file larger, which would give it away."""
    with replace_when_complete(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG", compress_level=0)
    os.utime(path, (0, 0))


def _write_rows(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with replace_when_complete(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def analyze_reader_study(
    key: str | os.PathLike[str],
    answers: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    confidence: float = 0.95,
) -> dict[str, ReaderResult]:
    """What each reader could tell, by the exact binomial distribution.

    A share of right answers that does not differ from guessing is no proof that an attack cannot be seen: ``high`` says
    how well the reader may see it and still have answered so. Answers of several readers to the same pictures are not
    independent; they are not pooled.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from monai_adversarial.studies import analyze_reader_study
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "key.csv").write_text("trial,attacked,case,slice\\n1,A,1,4\\n2,B,2,7\\n")
    >>> _ = (folder / "answers.csv").write_text("trial,reader,answer\\n1,reader 1,A\\n2,reader 1,b\\n")
    >>> found = analyze_reader_study(folder / "key.csv", folder / "answers.csv")["reader 1"]
    >>> found["correct"], found["p_value"], round(found["low"], 3)
    (2, 0.5, 0.158)

    Args:
        key: ``key.csv`` of :func:`export_reader_study`.
        answers: the sheet that people have filled in, or several; A or B in the column ``answer``, empty where there is
            none.
        confidence: of the intervals.

    Returns:
        reader -> :class:`ReaderResult`, in the order of the sheets.

    Raises:
        ValueError: for a file with other columns, an answer that is neither A nor B, trials that the key does not have,
            two answers of a reader to one trial, and no answers.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    1934; both by scipy.

    Survey entry: M10 (own).
    """
    level = check_fraction("confidence", confidence)
    if not 0 < level < 1:
        raise ValueError(f"confidence must be above 0 and below 1, got {confidence!r}.")
    truth = {row["trial"]: row["attacked"] for row in _read(key, KEY_COLUMNS)}
    files = [answers] if isinstance(answers, (str, os.PathLike)) else list(answers)
    given: dict[str, dict[str, str]] = {}
    for file in files:
        for row in _read(file, SHEET_COLUMNS):
            answer, trial = row["answer"].strip().upper(), row["trial"].strip()
            if trial not in truth:
                raise ValueError(f"answers must be of trials of the key, but {file} has the trial {trial!r}.")
            if answer not in ("", *SIDES):
                raise ValueError(f"answers must be A, B or empty, but {file} has {row['answer']!r} for trial {trial}.")
            of_reader = given.setdefault(row["reader"].strip(), {})
            if trial in of_reader:
                raise ValueError(f"answers must hold each trial once for {row['reader']!r}, but {trial} comes twice.")
            of_reader[trial] = answer
    if not any(answer for of_reader in given.values() for answer in of_reader.values()):
        raise ValueError("answers must hold at least one answer, A or B, filled in by a person, got none.")
    found = {reader: _result(of_reader, truth, level) for reader, of_reader in given.items()}
    for result, corrected in zip(found.values(), holm([one["p_value"] for one in found.values()]), strict=True):
        result["p_value_holm"] = corrected
    return found


def _read(path: str | os.PathLike[str], columns: Sequence[str]) -> list[Mapping[str, str]]:
    # spreadsheets write a mark of byte order in front of the first column's name
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        names = tuple(reader.fieldnames or ())
        if any(column not in names for column in columns):
            raise ValueError(f"{path} must have the columns {', '.join(columns)}, got {', '.join(names) or 'none'}.")
        return [{name: row[name] or "" for name in columns} for row in reader]


def _result(answers: Mapping[str, str], truth: Mapping[str, str], confidence: float) -> ReaderResult:
    known = {trial: answer for trial, answer in answers.items() if answer}
    trials, correct = len(known), sum(truth[trial] == answer for trial, answer in known.items())
    nothing = math.nan
    result = ReaderResult(
        trials=trials,
        unanswered=len(answers) - trials,
        correct=correct,
        share=correct / trials if trials else nothing,
        low=nothing,
        high=nothing,
        p_value=nothing,
        p_value_holm=nothing,
        d_prime=math.sqrt(2) * float(norm.ppf(correct / trials)) if trials else nothing,
    )
    if trials:
        test = binomtest(correct, trials, 0.5)
        interval = test.proportion_ci(confidence, method="exact")
        result |= {"p_value": float(test.pvalue), "low": float(interval.low), "high": float(interval.high)}  # type: ignore[misc]
    return result
