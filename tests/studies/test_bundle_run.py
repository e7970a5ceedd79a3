# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_adversarial run`` runs what attacks, and refuses what would pass for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_adversarial.studies.bundle_run import check_config, main
from tests.readme_parts import write_bundle

ADVERSARY = """adversary:
  _target_: monai_adversarial.engines.PrepareBatchAdversarial
  attack: {_target_: monai_adversarial.attacks.PGD, epsilon: 8, units: HU, steps: 1}
"""
ENGINE = '  engine: "@evaluator"\n'
REFERRED = '+initialize: ["@adversary"]\n'
HANDLER = """+handlers:
- _target_: monai_adversarial.handlers.AdversarialEvaluation
  attack: {_target_: monai_adversarial.attacks.PGD, epsilon: 8, units: HU, steps: 1}
"""
SETTING = "attack_steps: 1\n" + ADVERSARY + ENGINE + REFERRED


@pytest.fixture
def bundle(tmp_path: Path) -> list[str]:
    overlay = tmp_path / "overlay.yaml"
    return [str(write_bundle(tmp_path, "evaluator")), str(overlay)]


def run(bundle: list[str], overlay: str, *options: str) -> int:
    Path(bundle[1]).write_text(overlay, encoding="utf-8")
    folder = str(Path(bundle[1]).parent)
    quiet = ("--logging_file", "False", "--bundle_root", folder)
    return main(["--config_file", str(bundle), *quiet, *options])


RIGHT = {
    "overlay": (ADVERSARY + ENGINE + REFERRED, ()),
    "other budget": (ADVERSARY + ENGINE + REFERRED, ("--adversary#attack#epsilon", "4")),
    "further argument": (ADVERSARY + ENGINE + REFERRED, ("--adversary#attack#restarts", "2")),
    "an id of its own": (SETTING.replace("steps: 1}", "steps: '%attack_steps'}"), ()),
    "a note": (ADVERSARY + ENGINE + REFERRED + "written_by: us\n", ()),
    "made in the list": ('+initialize:\n- "$@adversary.attach(@evaluator)"\n' + ADVERSARY, ()),
    "as the engine's prepare_batch": (
        ADVERSARY + '  model: "@network"\n  prepare_batch: null\nevaluator#prepare_batch: "@adversary"\n',
        ("--adversary#attack#units", "network", "--adversary#attack#epsilon", "0.02"),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_attacks_runs(name: str, bundle: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    overlay, options = RIGHT[name]
    assert run(bundle, overlay, *options) == 0, capsys.readouterr().err


WRONG = {
    "forgotten": (ADVERSARY + ENGINE, (), "nothing in initialize and run refers to it; write +initialize"),
    "misspelt": (ADVERSARY + ENGINE + REFERRED.replace("ize:", "ise:"), (), "would never be made"),
    "no reference": (ADVERSARY + ENGINE + REFERRED.replace("@", ""), (), "would never be made"),
    "another list": (ADVERSARY + ENGINE + REFERRED, ("--init_id", "start"), "nothing in run refers to it"),
    "disabled": (ADVERSARY + ENGINE + "  _disabled_: true\n" + REFERRED, (), "it is disabled"),
    "for later": (ADVERSARY + ENGINE + "  _mode_: callable\n" + REFERRED, (), "_mode_ is 'callable'; leave it out"),
    "handlers of nobody": (HANDLER, (), "put it into the handlers that the engine is made with"),
    "no overlay": ("{}", (), "this run would attack nothing"),
    "no engine": (ADVERSARY + REFERRED, (), "made, but no batch ever met it: PrepareBatchAdversarial."),
    "misspelt option": (ADVERSARY + ENGINE + REFERRED, ("--epsilom", "4"), "did you mean --'adversary#attack#epsilon'"),
    "option without its place": (ADVERSARY + ENGINE + REFERRED, ("--epsilon", "4"), "--'adversary#attack#epsilon'"),
    "misspelt place": (ADVERSARY + ENGINE + REFERRED, ("--advrsary#attack#epsilon", "4"), "an id of none of the"),
    "misspelt id": (
        SETTING.replace("steps: 1", "steps: '@attack_steps'") + "atack_steps: 50\n",
        (),
        "overlay.yaml sets 'atack_steps'",
    ),
    "misspelt id of the bundle": (ADVERSARY + ENGINE + REFERRED + "netwrk: null\n", (), "did you mean 'network'?"),
    "misspelt id inside": (ADVERSARY + ENGINE + REFERRED + "files#orgnas: b.nii\n", (), "did you mean 'files#organs'?"),
    "no config": (None, (), "config_file is missing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_attacks_nothing_is_refused(name: str, bundle: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    overlay, options, sentence = WRONG[name]
    status = main([]) if overlay is None else run(bundle, overlay, *options)
    said = capsys.readouterr().err
    assert status == 2 and said.startswith("error: ") and sentence in said


def test_bundles_of_the_repository_attack() -> None:
    configs = Path(__file__).parents[2] / "bundles" / "ct_abdomen_unet" / "configs"
    assert check_config(str(configs / "attack.yaml"))
    assert check_config([str(configs / name) for name in ("train.yaml", "adversarial_training.yaml")])
    with pytest.raises(ValueError, match="would attack nothing"):
        check_config(str(configs / "evaluate.yaml"))
