# SPDX-License-Identifier: Apache-2.0
"""Audits of real and made-up networks: ``docs/audit_examples.md`` and the JSON files that it is made of.

    python -m benchmarks.audit_examples --work DIR [--data ../shared/data] [--zoo CHECKOUT] [NAME ...]
    python -m benchmarks.audit_examples --page

Each example is one ``python -m monai_adversarial audit`` in a process of its own, below ``--work``, where its report
stays. What is left in ``docs/audit_examples`` is the summary without cases, pictures and volumes. ``--page`` makes the
page of these files alone, and runs nothing. ``--data`` and ``--zoo`` are asked for by the examples that need them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import audit_example_targets as targets
from benchmarks import zoo_spleen

__all__ = ["EXAMPLES", "Example", "condensed", "page"]

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
FOLDER = DOCS / "audit_examples"
WIDTH = 120
BUNDLE = "bundles/ct_abdomen_unet"


@dataclass(frozen=True)
class Place:
    """Where things are: this run's folder, real data, the Model Zoo; resources that end with the run."""

    work: Path
    data: Path
    zoo: Path | None
    stack: ExitStack


@dataclass(frozen=True)
class Example:
    """One audit.

    Args:
        name: of its files.
        title: of its section.
        text: what it is, without figures.
        command: options of the audit as the page shows them, less plan and output.
        make: from a place to what stands for the words in capitals of ``command``, and ``more`` options.
        plan: rows that fit the time, or the name of a plan.
        server: key of ``make`` that holds a server whose counters are kept.
    """

    name: str
    title: str
    text: str
    command: str
    make: Callable[[Place], dict[str, Any]]
    plan: Mapping[str, Any] | str = "quick"
    server: str = ""


def _pgd(steps: int, budgets: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {
        "title": "PGD",
        "family": "gradient",
        "goal": "a wrong segmentation",
        "knowledge": "white box",
        "needs": "gradients",
        "description": "Projected gradient descent with steps that fall, each voxel within the budget.",
        "ids": ["white-box", "evasion"],
        "attack": {"_target_": "monai_adversarial.attacks.PGD", "steps": steps},
        "over": {"epsilon": dict(budgets)},
    }


def _square(queries: int, budgets: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {
        "title": f"Square attack, {queries} queries",
        "family": "queries",
        "goal": "a wrong segmentation",
        "knowledge": "queries",
        "needs": "queries",
        "description": "Random cubes within the budget, kept where the answer gets worse; nothing but answers is used.",
        "ids": ["black-box", "evasion"],
        "attack": {"_target_": "monai_adversarial.attacks.SquareAttack", "queries": queries},
        "over": {"epsilon": dict(budgets)},
    }


def _elastic(steps: int) -> dict[str, Any]:
    return {
        "title": "Adversarial elastic deformation",
        "family": "geometry",
        "goal": "a wrong segmentation",
        "knowledge": "white box",
        "needs": "gradients",
        "description": "A smooth deformation without folding, scored against the label that moved along.",
        "ids": ["white-box", "evasion"],
        "attack": {"_target_": "monai_adversarial.attacks.ElasticAttack", "steps": steps},
        "over": {"max_displacement": [5.0]},
    }


def _plan(**rows: Mapping[str, Any]) -> dict[str, Any]:
    clean = {"title": "Clean images", "family": "clean", "description": "The unchanged images, as they are deployed."}
    return {"name": "own", "rows": {"clean": clean, **rows}}


def _phantoms(place: Place) -> dict[str, Any]:
    return {"PHANTOMS": targets.make_phantoms(place.work / "phantoms")}


def _with_hardened(place: Place) -> dict[str, Any]:
    return {**_phantoms(place), "HARDENED": place.work / "ct_abdomen_unet_hardened"}


def _scan(place: Place) -> dict[str, Any]:
    return {"SCAN": targets.write_scan(place.work / "scan", place.data)}


def _spleen(place: Place) -> dict[str, Any]:
    return {
        "MODEL": place.data / "spleen_torchscript" / "model.pt",
        "SCAN": place.data / "abdomen_ct" / "portal_venous_ct_unlabelled.nii.gz",
    }


def _nnunet(place: Place) -> dict[str, Any]:
    results, cases = targets.make_nnunet(place.work / "nnunet_made")
    return {"RESULTS": results, "CASES": cases}


def _onnx(place: Place) -> dict[str, Any]:
    return {**_phantoms(place), "NETWORK": targets.make_onnx(place.work / "network.onnx")}


def _served(place: Place) -> dict[str, Any]:
    made = _onnx(place)
    served = place.stack.enter_context(targets.serve_onnx(made["NETWORK"]))
    return {"PHANTOMS": made["PHANTOMS"], "SERVER": served.url, "server": served}


def _zoo(name: str, items: Sequence[Mapping[str, Any]], config: str = "inference") -> Callable[[Place], dict[str, Any]]:
    def make(place: Place) -> dict[str, Any]:
        if place.zoo is None:
            raise SystemExit(f"{name} needs --zoo, a checkout of Project-MONAI/model-zoo.")
        root, datalist, overrides = targets.make_zoo_bundle(name, place.zoo, place.work / "zoo", items, config)
        return {"BUNDLE": root, "DATA": datalist, "more": ["--override", *overrides]}

    return make


def _zoo_spleen(margin: int | None = None) -> Callable[[Place], dict[str, Any]]:
    def make(place: Place) -> dict[str, Any]:
        if place.zoo is None:
            raise SystemExit("spleen_ct_segmentation needs --zoo, a checkout of Project-MONAI/model-zoo.")
        root = zoo_spleen.make_bundle(place.zoo, place.data, place.work / "zoo_spleen")
        folder = place.work / f"zoo_spleen_scan_{margin}"
        if margin is None:
            return {"BUNDLE": root, "SCAN": zoo_spleen.make_scan(place.data, folder)}
        return {"BUNDLE": root, "SCAN": zoo_spleen.make_labeled_scan(place.data, folder, margin)}

    return make


TOLD = (
    "--window -160 240 --spacing 3.2 3.2 4 --orientation RAS --roi-size 64 64 64 --overlap 0.25 --blending gaussian "
    "--sw-batch-size 4 --output-values logits "
    "--class-names background,liver,spleen,left_kidney,right_kidney,pancreas,aorta,spine"
)
BY_QUERIES = _plan(square=_square(30, {"HU": [8]}))
ZOO_PLAN = _plan(pgd=_pgd(10, {"HU": [8], "percentile": [0.02]}))
ZOO_WORDS = (
    "The unmodified folder with a small network that was trained for seconds on the same two made-up images: the "
    "figures say nothing about the published weights."
)
CT_CASES = [{"image": f"imagesTr/case_{i}.nii.gz", "label": f"labelsTr/case_{i}.nii.gz"} for i in range(2)]
SEQUENCES = ("t1ce", "t1", "t2", "flair")
PHASES = ("12", "22-", "32-")
BRATS_CASES = [
    {"image": [f"p{i}/p{i}_{name}.nii.gz" for name in SEQUENCES], "label": f"p{i}/p{i}_seg.nii.gz"} for i in range(2)
]
WIDTHS = f"'network_def#channels={json.dumps(zoo_spleen.OVERRIDES['network_def#channels'])}'"
ZOO_SPLEEN_COMMAND = f"--bundle BUNDLE --data SCAN --data-kind scans --override {WIDTHS}"
ZOO_COMMAND = "--bundle BUNDLE --data DATA --data-kind made-up --override ..."

EXAMPLES = [
    Example(
        "ct_abdomen_unet_hardened",
        "The bundle's hardened weights",
        "The same network with the weights of adversarial training that lie beside the clean ones.",
        f"--bundle {BUNDLE} --data PHANTOMS --limit 2 --data-kind phantoms "
        '--title "CT abdomen U-Net, hardened weights" '
        "--override checkpoint=models/hardened.pt",
        _phantoms,
    ),
    Example(
        "ct_abdomen_unet",
        "The bundle `ct_abdomen_unet`",
        "The U-Net of this repository on CT phantoms that it has not seen, beside its hardened weights.",
        f"--bundle {BUNDLE} --data PHANTOMS --limit 2 --data-kind phantoms "
        '--title "CT abdomen U-Net, clean weights" --compare HARDENED',
        _with_hardened,
    ),
    Example(
        "abdomen_unet",
        "A published abdominal U-Net on a real, labeled CT",
        "A network that others trained on TCIA Pancreas-CT, on a real scan, through the resampling to its own grid: "
        "budgets hold for the scanner's voxels. The labels are those of another program, not of a person.",
        "--python benchmarks.audit_example_targets:abdomen_unet --data SCAN --data-kind scans",
        _scan,
        _plan(pgd=_pgd(3, {"HU": [16]})),
    ),
    Example(
        "spleen_torchscript",
        "The TorchScript spleen network of MONAI's tutorials on a real scan without a label",
        "Stability against its own clean prediction; nothing here says how accurate that is. The picture in the report "
        "shows which organ it is: with `--orientation file` this network outlines the liver.",
        "--model MODEL --data SCAN --data-kind scans --no-labels --window -57 164 --orientation RAS --crop-foreground "
        "--whole-size 128 128 128 --class-names background,spleen",
        _spleen,
        _plan(pgd=_pgd(10, {"HU": [4]})),
    ),
    Example(
        "nnunet",
        "An nnU-Net of three folds",
        "Trained for seconds with nnU-Net's own trainer on two phantoms, audited as the ensemble on two others.",
        "--nnunet RESULTS --data CASES --data-kind phantoms",
        _nnunet,
        _plan(pgd=_pgd(10, {"HU": [8]}), elastic=_elastic(5)),
    ),
    Example(
        "onnx",
        "The bundle's network as ONNX",
        "Exported for windows of a fixed size; its pipeline is told. It has no gradients and is attacked by queries.",
        f"--model NETWORK --data PHANTOMS --limit 1 --data-kind phantoms {TOLD}",
        _onnx,
        BY_QUERIES,
    ),
    Example(
        "served",
        "The same ONNX file behind a server",
        "An HTTP server on the same machine that speaks KServe's protocol.",
        f"--served SERVER --model-name abdomen --data PHANTOMS --limit 1 --data-kind phantoms {TOLD}",
        _served,
        BY_QUERIES,
        server="server",
    ),
    Example(
        "zoo_spleen_ct",
        "Model Zoo: `spleen_ct_segmentation` on a real scan without a label",
        "The unmodified folder of the Zoo. Its published weights are a link and were not there; those of the network "
        "above, a TorchScript, are of the same `UNet`, layer for layer, half as wide, and fit with one override. "
        "Stability against its own clean prediction, on the part of the scan that holds the spleen: nothing here is "
        "about the published weights, or says how accurate these are.",
        ZOO_SPLEEN_COMMAND,
        _zoo_spleen(),
        _plan(pgd=_pgd(10, {"HU": [4]})),
    ),
    Example(
        "zoo_spleen_ct_labeled",
        "The same bundle and weights on a real, labeled CT, cropped with the label",
        "The scan as far as 36 mm around its spleen. The crop was chosen with the label and flatters: the next section "
        "has more of the same scan. The label is that of another program, not of a person.",
        ZOO_SPLEEN_COMMAND,
        _zoo_spleen(12),
        _plan(pgd=_pgd(3, {"HU": [4]})),
    ),
    Example(
        "zoo_spleen_ct_surroundings",
        "The same with more of the surroundings",
        "The same scan as far as 72 mm around its spleen. On the clean image the Dice is what it is without an attack, "
        "and the audit says what follows from such an image.",
        ZOO_SPLEEN_COMMAND,
        _zoo_spleen(24),
        _plan(pgd=_pgd(1, {"HU": [4]})),
    ),
    Example(
        "zoo_renal_ct",
        "Model Zoo: `renalStructures_CECT_segmentation`",
        f"CT, an image of three phases. {ZOO_WORDS}",
        ZOO_COMMAND,
        _zoo(
            "renalStructures_CECT_segmentation",
            [
                {"image": [f"case{i}/{phase}.nii.gz" for phase in PHASES], "label": f"case{i}/merged.nii.gz"}
                for i in range(2)
            ],
        ),
        ZOO_PLAN,
    ),
    Example(
        "zoo_pediatric_ct",
        "Model Zoo: `pediatric_abdominal_ct_segmentation`",
        f"CT, several organs, a config in YAML. {ZOO_WORDS}",
        ZOO_COMMAND,
        _zoo("pediatric_abdominal_ct_segmentation", CT_CASES),
        ZOO_PLAN,
    ),
    Example(
        "zoo_brats_mri",
        "Model Zoo: `brats_mri_segmentation`",
        f"MRI of four sequences, and regions that overlap, which its training config makes of the labels. {ZOO_WORDS}",
        ZOO_COMMAND.replace("--override", "--config-file train.json evaluate.json --override"),
        _zoo("brats_mri_segmentation", BRATS_CASES, "evaluate"),
        ZOO_PLAN,
    ),
    Example(
        "zoo_prostate_mri",
        "Model Zoo: `prostate_mri_anatomy`",
        f"MRI: budgets are shares of each image's own range. {ZOO_WORDS}",
        ZOO_COMMAND,
        _zoo(
            "prostate_mri_anatomy",
            [{"image": f"p{i}/t2.nii.gz", "label": f"p{i}/t2_anatomy_reader1.nii.gz"} for i in range(2)],
        ),
        ZOO_PLAN,
    ),
    Example(
        "zoo_endoscopy",
        "Model Zoo: `endoscopic_tool_segmentation`",
        f"Color pictures in two dimensions. {ZOO_WORDS}",
        ZOO_COMMAND,
        _zoo(
            "endoscopic_tool_segmentation",
            [{"image": f"test/seq0/frame{i}.jpg", "label": f"test/seq0/frame{i}_seg.png"} for i in range(2)],
        ),
        ZOO_PLAN,
    ),
]


def condensed(summary: Mapping[str, Any], example: Example, **more: Any) -> dict[str, Any]:
    """What of an ``audit.json`` the page needs: no cases, pictures, volumes or times of day.

    Args:
        summary: content of ``audit.json``.
        example: that it is of.
        more: further entries.
    """
    rows = {row["name"]: row for row in summary["plan"]["rows"]}
    results = []
    for entry in summary["results"]:
        means = {
            image: found["dice"] for image, found in entry["mean"].items() if image != "adversarial_original_label"
        }
        results.append(
            {
                "row": entry["row"],
                "title": rows[entry["row"]]["title"],
                "budget": (rows[entry["row"]]["budget"] or {}).get("text"),
                "reference": entry["reference"],
                "n": entry["n"],
                "dice": {image: _rounded(found) for image, found in means.items()},
                "worst_case": _rounded(entry["worst_case"]),
                "cost": _rounded(entry["cost"], 1),
            }
        )
    target = summary["target"]
    return {
        "name": example.name,
        "target": {name: target[name] for name in ("name", "kind", "gradients", "classes", "hashes")},
        "facts": [fact for fact in target["facts"] if fact["what"] in ("same as deployed", "first case", "label")],
        "data": {name: summary["data"][name] for name in ("cases", "with_label", "kind", "spacing_mm", "notes")},
        "results": results,
        "health": [
            {name: check[name] for name in ("check", "verdict", "text")}
            for check in summary["health"]
            if check["verdict"] != "pass"
        ],
        "failures": summary["failures"],
        # Of the rows: an audit that was interrupted and went on knows no other time.
        "seconds": round(sum(entry["cost"]["seconds"] for entry in summary["results"]), 1),
        "versions": summary["versions"],
        **more,
    }


def _rounded(value: Any, digits: int = 6) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(one, digits) for name, one in value.items()}
    return round(value, digits) if isinstance(value, float) else value


def run(example: Example, place: Place) -> dict[str, Any]:
    """Run an example and write its JSON file.

    Raises:
        SystemExit: where its audit failed, with where its output lies.
    """
    made = example.make(place)
    words = [str(made.get(word, word)) for word in shlex.split(example.command.removesuffix(" --override ..."))]
    out = place.work / example.name
    plan = example.plan
    if not isinstance(plan, str):
        plan = str(place.work / f"{example.name}_plan.json")
        Path(plan).write_text(json.dumps(example.plan, indent=1), encoding="utf-8")
    command = [sys.executable, "-m", "monai_adversarial", "audit", *words, *made.get("more", [])]
    log = place.work / f"{example.name}.log"
    environment = {**os.environ, "MONAI_ADVERSARIAL_DATA": str(place.data)}
    with open(log, "w", encoding="utf-8") as file:
        status = subprocess.run(
            [*command, "--plan", plan, "--out", str(out)], stdout=file, stderr=file, cwd=REPOSITORY, env=environment
        ).returncode
    if status:
        raise SystemExit(f"{example.name}: the audit ended with {status}, see {log}.")
    more: dict[str, Any] = {}
    if example.server:
        served = made[example.server]
        more["server"] = {"requests": served.seen, "samples": served.samples}
    found = condensed(json.loads((out / "audit.json").read_text(encoding="utf-8")), example, **more)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{example.name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """``docs/audit_examples.md``.

    Args:
        found: name -> content of its JSON file; examples without one are left out.
    """
    lines = [
        "# Audits of real networks",
        "",
        "Each section is one command and the table of its report; files, pictures and organs are in the report itself.",
        "`PHANTOMS`, `SCAN` and other words in capitals stand for paths. Made by `python -m benchmarks.audit_examples`",
        "from the JSON files in [audit_examples](audit_examples).",
        "",
        "Dice is the mean over organs and cases, with the 95 % bootstrap interval over cases where there are several.",
        "*Random* is a change of the same kind and size, without an attacker. *Stability* is Dice against the",
        "network's own clean prediction: it says nothing about accuracy. Seconds are wall time on machines that other",
        "work may have shared.",
        "",
    ]
    for example in EXAMPLES:
        if example.name in found:
            lines += [f"## {example.title}", "", *_section(example, found[example.name]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _section(example: Example, found: Mapping[str, Any]) -> list[str]:
    plan = example.plan if isinstance(example.plan, str) else "OWN.yaml"
    data = found["data"]
    parts = [f"{_count(data['cases'], 'case')}", f"{found['seconds']:.0f} s for the rows"]
    parts += [f"{fact['value']}" for fact in found["facts"] if fact["what"] == "same as deployed"]
    if found.get("server"):
        server = found["server"]
        parts.append(f"the server counted {server['samples']} windows in {_count(server['requests'], 'request')}")
    lines = [*textwrap.wrap(example.text, WIDTH), "", "```bash"]
    lines += _wrapped(f"python -m monai_adversarial audit {example.command} --plan {plan} --out DIR")
    lines += ["```", "", *textwrap.wrap("; ".join(parts) + ".", WIDTH), ""]
    lines += ["| row | measure | clean | random | attacked | worst case | forward, backward |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for entry in found["results"]:
        dice, worst = entry["dice"], entry["worst_case"]
        lines.append(
            "| "
            + " | ".join(
                [
                    entry["title"],
                    "Dice" if entry["reference"] == "label" else "stability",
                    *(_interval(dice.get(image)) for image in ("clean", "random", "adversarial")),
                    "" if worst is None else f"{worst['dice']:.3f}",
                    f"{entry['cost']['forwards']}, {entry['cost']['backwards']}",
                ]
            )
            + " |"
        )
    lines += ["", *(f"- {check['verdict']}: {check['text']}" for check in found["health"])]
    return lines if found["health"] else lines[:-1]


def _wrapped(command: str) -> list[str]:
    """A command on lines of whole options."""
    first, *others = command.split(" --")
    lines = [first]
    for option in others:
        if len(lines[-1]) + len(option) > WIDTH - 5:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" --{option}"
    return lines


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _interval(found: Mapping[str, Any] | None) -> str:
    if not found or found["mean"] is None:
        return ""
    low, high = found.get("low"), found.get("high")
    several = low is not None and high is not None and found.get("n", 2) > 1
    return f"{found['mean']:.3f}" + (f" [{low:.3f}, {high:.3f}]" if several else "")


def load() -> dict[str, dict[str, Any]]:
    """Name -> content of the JSON files that are there."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.json"))}


def main() -> int:
    """Run what is asked for, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit_examples", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of examples; all without one")
    parser.add_argument(
        "--work", type=Path, default=Path("audit_examples_work"), help="folder for reports and networks"
    )
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data", help="folder of real data")
    parser.add_argument("--zoo", type=Path, help="checkout of Project-MONAI/model-zoo (it holds models/)")
    parser.add_argument("--page", action="store_true", help="make the page alone")
    given = parser.parse_args()
    known = {example.name: example for example in EXAMPLES}
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"there is no example {unknown[0]!r}; there are {', '.join(known)}.")
    for name in [] if given.page else given.names or known:
        work, zoo = given.work.resolve(), given.zoo.resolve() if given.zoo else None
        work.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            found = run(known[name], Place(work, given.data.resolve(), zoo, stack))
        print(f"{name}: {found['seconds']} s", flush=True)
    (DOCS / "audit_examples.md").write_text(page(load()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
