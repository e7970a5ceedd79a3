# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_adversarial audit``: options, prices, refusals and exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from monai_adversarial.audit.command_line import main
from monai_adversarial.audit.from_config import check_names
from tests.audit.pipeline import PLAN, write_cases

ROOT = Path(__file__).resolve().parents[2]
TARGET = "tests.audit.pipeline:target"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_cases(tmp_path / "data")
    plan = {**PLAN, "rows": {name: PLAN["rows"][name] for name in ("clean", "pgd")}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    return tmp_path


def _arguments(folder: Path, *more: str) -> list[str]:
    return [
        *("audit", "--python", TARGET, "--data", str(folder / "data"), "--plan", str(folder / "plan.yaml")),
        *("--out", str(folder / "out"), "--no-pictures", *more),
    ]


def test_a_command_writes_the_report(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "groups.csv").write_text("case,scanner\npatient_0,A\npatient_1.nii.gz,B\n", encoding="utf-8")
    assert main(_arguments(data, "--subgroups", str(data / "groups.csv"), "--data-kind", "phantoms")) == 0
    said = capsys.readouterr().out
    assert "PGD, 40 HU" in said and "report.html" in said
    summary = json.loads((data / "out" / "audit.json").read_text(encoding="utf-8"))
    assert {one["value"] for one in summary["subgroups"]} == {"A", "B"} and summary["data"]["kind"] == "phantoms"
    for name in ("report.html", "results.csv", "summary.csv"):
        assert (data / "out" / name).stat().st_size > 100


def test_a_dry_run_says_what_it_read_and_what_it_would_cost(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_arguments(data, "--dry-run")) == 0
    said = capsys.readouterr().out
    for text in (
        "-160..340 HU -> 0..1 from",
        "softmax from",
        "must be told: nothing",
        "2 cases, 2 with a label",
        "PGD, 5 HU ",
        "minutes for all cases",
        "peak memory",
    ):
        assert text in said, said
    assert not (data / "out" / "rows").exists()


REFUSED = {
    "an option that means nothing here": (["--folds", "0"], "--folds means nothing for --python"),
    "a plan that is not there": (["--plan", "qiuck"], "there is no plan qiuck"),
    "a row that the plan lacks": (["--rows", "pdg"], "did you mean 'pgd'?"),
    "a shard that is none": (["--shard", "8/8"], "shard must be RANK/COUNT"),
    "no other audit": (["--compare", "nowhere"], "there is no audit in nowhere"),
    "no subgroups": (["--subgroups", "nowhere.csv"], "there is no CSV file of subgroups nowhere.csv"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_done_is_one_sentence_and_status_2(
    what: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, sentence = REFUSED[what]
    assert main(_arguments(data, *options)) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said and "\n" not in said and said.startswith("error: ")
    assert not (data / "out" / "rows").exists()


@pytest.mark.parametrize("option", ["--epsilonn", "--dat", "--plann"])
def test_mistyped_options_are_errors(option: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(_arguments(data, option, "x"))
    assert stopped.value.code == 2 and "unrecognized arguments" in capsys.readouterr().err


def test_a_failed_case_is_in_the_exit_status(data: Path) -> None:
    (data / "data" / "patient_0.nii.gz").write_bytes(b"nothing")
    assert main(_arguments(data)) == 1
    summary = json.loads((data / "out" / "audit.json").read_text(encoding="utf-8"))
    assert [one["n"] for one in summary["results"]] == [1, 1, 1]


def test_shards_together_are_one_audit(data: Path) -> None:
    for shard in ("0/2", "1/2"):
        assert main(_arguments(data, "--shard", shard)) == 0
    assert main(_arguments(data)) == 0
    summary = json.loads((data / "out" / "audit.json").read_text(encoding="utf-8"))
    assert [one["n"] for one in summary["results"]] == [2, 2, 2]


def test_labels_that_are_not_to_be_read(data: Path) -> None:
    assert main(_arguments(data, "--no-labels", "--rows", "clean")) == 0
    summary = json.loads((data / "out" / "audit.json").read_text(encoding="utf-8"))
    assert {one["reference"] for one in summary["results"]} == {"clean prediction"}


@pytest.mark.slow
def test_the_bundle_runs_the_command_and_refuses_names_that_it_lacks(data: Path) -> None:
    config = ROOT / "bundles" / "robustness_audit" / "configs" / "audit.yaml"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config)]
    options = ["--python", TARGET, "--data", str(data / "data"), "--plan", str(data / "plan.yaml")]
    options += ["--out", str(data / "out"), "--rows", "clean", "--no_pictures", "True"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    assert (data / "out" / "report.html").is_file()
    wrong = subprocess.run(
        [*command, *options, "--paln", "x"], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300
    )
    assert wrong.returncode != 0 and "the config has no 'paln' (did you mean 'plan'?)" in wrong.stderr


def test_names_of_a_config_are_checked() -> None:
    check_names(["plan", "out"], ["run", "--plan", "quick", "--config_file", "nowhere.yaml", "--out=here"])
    with pytest.raises(ValueError, match="no 'otu' .did you mean 'out'"):
        check_names(["plan", "out"], ["run", "--otu", "x"])
