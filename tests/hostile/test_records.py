# SPDX-License-Identifier: Apache-2.0
"""Records and files of a study that somebody changed: named, and their cell runs again, to the same tables."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_adversarial.studies.records import SEAL, write_record
from tests.hostile.parts import half_written, study, write_image


def content(make: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Path], Any]:
    """Replace the JSON; the seal stays what it was."""

    def change(record: Path, _: Path) -> None:
        record.write_text(json.dumps(make(json.loads(record.read_text()))))

    return change


def sealed(**changes: Any) -> Callable[[Path, Path], Any]:
    """Change entries of a record and seal it anew, as this package would; None takes an entry out."""

    def change(record: Path, _: Path) -> None:
        found = json.loads(record.read_text())
        found.pop(SEAL)
        found |= {key: value for key, value in changes.items() if value is not None}
        write_record(record, {key: value for key, value in found.items() if changes.get(key, "") is not None})

    return change


def raw(value: bytes) -> Callable[[Path, Path], Any]:
    return lambda record, _: record.write_bytes(value)


def folder(record: Path, _: Path) -> None:
    record.unlink()
    record.mkdir()


NOT_A_RECORD = "is no record of this study or was changed"
CHANGED_FILES = "vouches for files that are missing or were changed"
CHANGES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "empty": (raw(b""), NOT_A_RECORD),
    "an empty object": (raw(b"{}"), NOT_A_RECORD),
    "a list": (raw(b"[]"), NOT_A_RECORD),
    "null": (raw(b"null"), NOT_A_RECORD),
    "half": (lambda record, _: record.write_bytes(record.read_bytes()[:200]), NOT_A_RECORD),
    "deep nesting": (raw(b"[" * 100_000), NOT_A_RECORD),
    "deep objects": (raw(b'{"a":' * 5_000 + b"1" + b"}" * 5_000), NOT_A_RECORD),
    "other bytes": (raw(bytes(range(256))), NOT_A_RECORD),
    "a better Dice": (content(lambda found: {**found, "mean": {"adversarial": {"dice": 1.0}}}), NOT_A_RECORD),
    "without files": (content(lambda found: {k: v for k, v in found.items() if k != "files"}), NOT_A_RECORD),
    "without a seal": (content(lambda found: {k: v for k, v in found.items() if k != SEAL}), NOT_A_RECORD),
    "a folder": (folder, NOT_A_RECORD),
    "sealed without files": (sealed(files=None), CHANGED_FILES),
    "sealed with a list of files": (sealed(files=["a"]), CHANGED_FILES),
    "sealed without hashes": (sealed(hashes=None), CHANGED_FILES),
    "sealed with hashes of a number": (sealed(hashes=5), CHANGED_FILES),
    "sealed under another fingerprint": (sealed(fingerprint="0" * 64), ""),
    "an empty volume": (lambda _, volume: volume.write_bytes(b""), CHANGED_FILES),
    "no volume": (lambda _, volume: volume.unlink(), CHANGED_FILES),
    "no record": (lambda record, _: record.unlink(), ""),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("records")
    make(root, root / "out").run()
    return root


def make(root: Path, out: Path) -> Any:
    cases = [
        {"image": str(write_image(root / "data" / f"{name}.nii", seed)), "case_id": name}
        for seed, name in enumerate(("a", "b"))
    ]
    return study(cases, out)


def figures(out: Path) -> dict[str, Any]:
    """The summary without seconds."""
    found = json.loads((out / "summary.json").read_text())
    for entries in found["against_clean_prediction"].values():
        entries.pop("cost")
    return found


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_is_named_and_runs_again(
    what: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, says = CHANGES[what]
    out = tmp_path / "out"
    shutil.copytree(whole / "out", out)
    change(out / "pgd" / "a.json", out / "pgd" / "a_adversarial.nii")
    capsys.readouterr()
    if what == "a folder":
        # Somebody's folder is not removed: nothing can be written in its place, which is said.
        with pytest.raises(OSError, match=r"cannot write .*a\.json"):
            make(whole, out).run()
        return
    make(whole, out).run()
    printed = capsys.readouterr()
    assert "1 of 2 cells are done already, 1 to go" in printed.out
    assert not says or f"a.json {says}: its cell runs again." in printed.err
    assert figures(out) == figures(whole / "out") and not half_written(out)
    original = (whole / "out" / "pgd" / "a_adversarial.nii").read_bytes()
    assert (out / "pgd" / "a_adversarial.nii").read_bytes() == original


def test_swapped_volumes_are_found_by_their_hashes(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole / "out", out)
    first, second = (out / "pgd" / f"{name}_adversarial.nii" for name in "ab")
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    make(whole, out).run()
    printed = capsys.readouterr().err
    assert printed.count(CHANGED_FILES) == 2
    assert (first.read_bytes(), second.read_bytes()) == (one, other)


def test_a_volume_that_is_swapped_while_the_study_object_lives_is_found(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = make(whole, out)
    made.run()
    volume = out / "pgd" / "a_adversarial.nii"
    original, times = volume.read_bytes(), os.stat(volume)
    volume.write_bytes(original[:-2] + b"\x01\x02")
    os.utime(volume, ns=(times.st_atime_ns, times.st_mtime_ns))
    made.run()
    assert volume.read_bytes() == original
