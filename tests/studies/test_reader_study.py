# SPDX-License-Identifier: Apache-2.0
"""A reader study gives nothing away, and is analyzed by the exact binomial distribution."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import beta

from monai_adversarial.studies import analyze_reader_study, export_reader_study

WINDOW = (-160.0, 240.0)


def pair(seed: int, shape=(1, 1, 6, 5, 4), changed: int = 2):
    """A clean image and one with noise in one slice, less in another."""
    draw = torch.Generator().manual_seed(seed)
    clean = 100 * torch.randn(shape, generator=draw)
    attacked = clean.clone()
    attacked[..., changed] += 8 * torch.randn(shape[:-1], generator=draw)
    attacked[..., 0] += 2
    return clean, attacked


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def filled(path, answer_of, reader="reader 1"):
    """A sheet as the analysis reads it; what is tested here is arithmetic and no reader."""
    rows = [row | {"answer": answer_of(row["trial"])} for row in rows_of(path) if row["reader"] == reader]
    lines = ["trial,reader,answer", *(f"{row['trial']},{row['reader']},{row['answer']}" for row in rows)]
    sheet = path.with_name(f"{reader}.csv")
    sheet.write_text("\n".join(lines), encoding="utf-8")
    return sheet


def test_pictures_are_the_windowed_slices_that_were_changed_most(tmp_path) -> None:
    pairs = [pair(seed) for seed in range(12)]
    key = rows_of(export_reader_study(pairs, tmp_path / "study", WINDOW, seed=1))
    assert sorted(int(row["case"]) for row in key) == list(range(1, 13)) != [int(row["case"]) for row in key]
    assert {row["attacked"] for row in key} == {"A", "B"} and {row["slice"] for row in key} == {"2"}
    for row in key:
        images = pairs[int(row["case"]) - 1]
        for side in "AB":
            volume = images[1 if side == row["attacked"] else 0]
            # anterior (the end of the second axis) above, the patient's right (the end of the first) on the left
            shown = np.rot90(volume[0, 0, ..., 2].double().numpy()[::-1])
            expected = (shown.clip(*WINDOW) + 160) / 400 * 255
            picture = Image.open(tmp_path / "study" / "for_readers" / f"trial_{int(row['trial']):02d}_{side}.png")
            assert np.array_equal(np.asarray(picture), expected.round())


def test_nothing_but_the_picture_tells_which_one_it_is(tmp_path) -> None:
    export_reader_study([pair(seed, (1, 1, 32, 32, 4)) for seed in range(3)], tmp_path, WINDOW, readers=["a", "b"])
    files = sorted((tmp_path / "for_readers").glob("*.png"))
    assert len(files) == 6 and len({file.stat().st_size for file in files}) == 1
    assert {file.stat().st_mtime for file in files} == {0}
    assert all(Image.open(file).info == {} for file in files)
    sheet = rows_of(tmp_path / "for_readers" / "answers.csv")
    assert [(row["trial"], row["reader"], row["answer"]) for row in sheet] == [
        (str(trial), reader, "") for reader in "ab" for trial in (1, 2, 3)
    ]
    with pytest.raises(FileExistsError, match="holds a key.csv already"):
        export_reader_study([pair(0)], tmp_path, WINDOW)


def test_sides_are_drawn_anew_unless_a_seed_is_given(tmp_path) -> None:
    def sides(name, **options):
        key = export_reader_study([pair(seed) for seed in range(40)], tmp_path / name, WINDOW, **options)
        return [row["attacked"] for row in rows_of(key)]

    assert sides("one", seed=3) == sides("two", seed=3)
    drawn = sides("three")
    assert drawn != sides("four")  # equal with a chance of 2 ** -40
    assert 4 <= drawn.count("A") <= 36


def test_answers_are_tested_exactly(tmp_path) -> None:
    key = export_reader_study([pair(seed) for seed in range(10)], tmp_path, WINDOW, readers=["reader 1", "reader 2"])
    truth = {row["trial"]: row["attacked"] for row in rows_of(key)}
    wrong = {"A": "B", "B": "A"}
    sheet = tmp_path / "for_readers" / "answers.csv"
    good = filled(sheet, lambda trial: truth[trial].lower() if trial != "3" else wrong[truth[trial]])
    other = filled(
        sheet,
        lambda trial: truth[trial] if int(trial) <= 4 else "" if trial == "10" else wrong[truth[trial]],
        "reader 2",
    )
    found = analyze_reader_study(key, [good, other])
    one, two = found["reader 1"], found["reader 2"]
    assert (one["trials"], one["correct"], one["unanswered"], one["share"]) == (10, 9, 0, 0.9)
    assert one["p_value"] == pytest.approx(2 * (1 + 10) / 2**10)  # 9 or 10 of 10, on both sides
    assert one["low"] == pytest.approx(beta.ppf(0.025, 9, 2)) and one["high"] == pytest.approx(beta.ppf(0.975, 10, 1))
    assert one["d_prime"] == pytest.approx(math.sqrt(2) * 1.2815515655446004)
    assert (two["trials"], two["correct"], two["unanswered"]) == (9, 4, 1) and two["p_value"] == pytest.approx(1.0)
    assert one["p_value_holm"] == pytest.approx(2 * one["p_value"]) and two["p_value_holm"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trial,reader\n1,a\n", "must have the columns trial, reader, answer"),
        ("trial,reader,answer\n1,a,C\n", "must be A, B or empty"),
        ("trial,reader,answer\n9,a,A\n", "has the trial '9'"),
        ("trial,reader,answer\n1,a,A\n1,a,B\n", "comes twice"),
        ("trial,reader,answer\n1,a,\n", "at least one answer"),
    ],
)
def test_sheets_that_cannot_be_read_are_refused(tmp_path, text, message) -> None:
    key = export_reader_study([pair(0)], tmp_path, WINDOW)
    (tmp_path / "sheet.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        analyze_reader_study(key, tmp_path / "sheet.csv")


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ([], {}, "at least one pair"),
        ([torch.zeros(1, 4, 4)], {}, "a clean and an attacked image each"),
        ([(torch.zeros(1, 4, 4), torch.zeros(1, 4, 5))], {}, "of one shape"),
        ([(torch.zeros(1, 4, 4), torch.full((1, 4, 4), torch.nan))], {}, "finite values"),
        ([(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4))], {}, "pictures of one are equal"),
        ([(torch.full((1, 4, 4), 900.0), torch.full((1, 4, 4), 901.0))], {}, "pictures of one are equal"),
        ([(torch.zeros(2, 2, 4, 4, 4), torch.ones(2, 2, 4, 4, 4))], {}, "one channel"),
        ([pair(0)], {"axis": 3}, "axis must be one of 3 spatial dimensions"),
        ([pair(0)], {"readers": ["a", "a"]}, "distinct names"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path, pairs, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        export_reader_study(pairs, tmp_path, WINDOW, **options)
    assert not (tmp_path / "key.csv").exists()


def test_a_radiograph_is_shown_as_it_is(tmp_path) -> None:
    clean = torch.arange(12.0).view(1, 3, 4)
    (row,) = rows_of(export_reader_study([(clean, clean + 1)], tmp_path, (0.0, 255.0)))
    other = {"A": "B", "B": "A"}[row["attacked"]]
    picture = Image.open(tmp_path / "for_readers" / f"trial_1_{other}.png")
    assert np.asarray(picture).tolist() == clean[0].tolist()
