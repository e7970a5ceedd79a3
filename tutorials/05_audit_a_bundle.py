# %% [markdown]
# SPDX-License-Identifier: Apache-2.0
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless required by
# applicable law or agreed to in writing, software distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific language
# governing permissions and limitations under the License.
#
# # Audit a Model Zoo bundle and read the report
#
# One call audits a MONAI bundle as it is deployed: its own preprocessing, inferer and postprocessing. You will:
#
# - read an unmodified bundle and see what was read of it, and where,
# - run a plan of attacks and random changes on it,
# - read the report: verdicts, health checks, what was not tested,
# - set a second network, the same bundle with hardened weights, beside the first,
# - do the same with a bundle of the Model Zoo, where there is one.
#
# Most cells audit the bundle of this repository, which was trained on CT phantoms and needs no download. A section
# near the end audits the bundle that you name, for example one of the Model Zoo:
#
# ```bash
# python -m monai.bundle download --name spleen_ct_segmentation --bundle_dir zoo
# export MONAI_ADVERSARIAL_TUTORIAL_BUNDLE=$PWD/zoo/spleen_ct_segmentation
# export MONAI_ADVERSARIAL_TUTORIAL_SCANS=$PWD/scans     # images/ and, where you have them, labels/
# ```
#
# Without these two variables that section says that it was skipped, and nothing takes its place.
#
# `MONAI_ADVERSARIAL_TUTORIAL_FAST=1` in the environment makes everything small. The output of the data cell says in
# which mode the stored outputs were made.

# %% [markdown]
# ## Setup environment

# %%
# !python -c "import monai_adversarial" || pip install -q -e "..[tutorials]"
# %matplotlib inline

# %% [markdown]
# ## Setup imports

# %%
import json
import os
import shutil
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display
from monai.config import print_config
from monai.utils import set_determinism
from PIL import Image

import monai_adversarial
from monai_adversarial.audit import audit
from monai_adversarial.audit.report import RULES, findings_of
from monai_adversarial.audit.targets.bundle import read_bundle
from monai_adversarial.data import write_ct_phantoms

print_config()

# %% [markdown]
# ## Setup data directory

# %%
fast = os.environ.get("MONAI_ADVERSARIAL_TUTORIAL_FAST", "0") == "1"
print("mode:", "fast" if fast else "full")
set_determinism(seed=0)
plt.rcParams.update({"figure.dpi": 70})
root_dir = Path(tempfile.mkdtemp())
bundle_dir = Path(monai_adversarial.__file__).parents[1] / "bundles" / "ct_abdomen_unet"
scans_dir = root_dir / "phantoms"
# Seeds from 1000 on were seen by no training.
grid = {"size": (40, 40, 28) if fast else (60, 60, 40), "spacing": (5.0, 5.0, 6.0)}
write_ct_phantoms(scans_dir, count=1 if fast else 2, seed=1000, progress=False, **grid)
print("bundle:", bundle_dir.name)
given_dir, given_scans = (os.environ.get(f"MONAI_ADVERSARIAL_TUTORIAL_{name}") for name in ("BUNDLE", "SCANS"))
if bool(given_dir) != bool(given_scans):
    raise ValueError("name both, MONAI_ADVERSARIAL_TUTORIAL_BUNDLE and MONAI_ADVERSARIAL_TUTORIAL_SCANS, or neither.")
print("bundle that you named:", Path(given_dir).name if given_dir else "none")

# %% [markdown]
# ## What is read of the bundle
#
# Nothing of the bundle is changed. Its config is run up to its evaluator, and network, intensity map, inferer and
# postprocessing are that evaluator's own. Read the facts before anything else: an audit of a pipeline that is not the
# deployed one says nothing.

# %%
parts = read_bundle(bundle_dir)
print(*parts.facts, sep="\n")
print("still to be told:", [one.what for one in parts.missing] or "nothing")

# %% [markdown]
# ## The plan
#
# `"quick"`, `"standard"` and `"thorough"` come with the package. A plan of your own is a mapping or a YAML file. Each
# row says what is done, what its attacker wants and what it knows.

# %%
plan = {
    "name": "tutorial",
    "rows": {
        "clean": {"title": "Clean images", "family": "clean"},
        "noise": {
            "title": "Noise",
            "family": "natural variation",
            "goal": "none, chance",
            "attack": {
                "_target_": "monai_adversarial.attacks.natural_variation",
                "name": "noise",
                "modality": "@modality",
                "draws": 2,
            },
        },
        "pgd": {
            "title": "PGD",
            "family": "gradient",
            "goal": "a wrong segmentation",
            "knowledge": "white box",
            "needs": "gradients",
            "attack": {"_target_": "monai_adversarial.attacks.PGD", "steps": 2 if fast else 5},
            "over": {"epsilon": {"HU": [8] if fast else [2, 8], "percentile": [0.02]}},
        },
        "elastic": {
            "title": "Adversarial elastic deformation",
            "family": "geometry",
            "goal": "a wrong segmentation",
            "knowledge": "white box",
            "needs": "gradients",
            "attack": {"_target_": "monai_adversarial.attacks.ElasticAttack", "steps": 2 if fast else 4},
            "over": {"max_displacement": [5.0]},
        },
    },
}

# %% [markdown]
# ## Run it
#
# The same call goes on where an earlier one was interrupted. On the command line it is
# `python -m monai_adversarial audit --bundle DIR --data FOLDER --plan quick --out audit`.

# %%
summary = audit(
    parts, scans_dir, plan, root_dir / "audit", data_kind="phantoms", title="shipped weights", progress=False
)

# %% [markdown]
# ## Read the report
#
# `report.html` is one file that asks no host for anything; `audit.json` holds the same content. There is no score over
# rows: every row stands for itself with one of four words about the *network*: "failed" means that the attack did
# what it wanted. These are their rules.

# %%
print(*(f"{word}: {rule}" for word, rule in RULES.items()), sep="\n")
print()


# %%
def titles(of):
    """Row -> its title in an audit's plan."""
    return {row["name"]: row["title"] for row in of["plan"]["rows"]}


def before_and_after(finding):
    """What was measured: Dice with the label, or stability, which is Dice with the network's own clean prediction."""
    measure = "Dice" if finding.reference == "label" else "stability"
    values = ("?" if value is None else f"{value:.2f}" for value in (finding.clean, finding.after))
    return f"{measure} {' → '.join(values)}"


def print_findings(of):
    """One line for each row: verdict, what is left, and the organ that lost most."""
    for finding in findings_of(of):
        organ = "" if finding.organ is None else "; most lost: {} {:.2f} → {:.2f}".format(*finding.organ)
        print(f"{titles(of)[finding.row]}: {finding.verdict} ({before_and_after(finding)}{organ})")


def print_health(of):
    """The health checks that did not pass."""
    for check in of["health"]:
        if check["verdict"] != "pass":
            print(f"{check['verdict']}: {check['check']}: {check['text']}")
    print(sum(check["verdict"] == "pass" for check in of["health"]), "checks passed")


print_findings(summary)

# %% [markdown]
# **Health checks** look for signs that the evaluation is weaker than it looks: masked gradients, attacks that do no
# more than chance, budgets that change nothing. A check that fails takes "held" and "weakened" away.

# %%
print_health(summary)

# %% [markdown]
# **What was not tested** belongs to the result.

# %%
print(*(f"- {sentence}" for sentence in summary["not_tested"]), sep="\n")

# %% [markdown]
# **Pictures.** Every case and row has one: below, that of the first case under the last row of PGD.


# %%
def show_strongest(of, folder):
    """The picture of the first case under the last row of gradients."""
    strongest = [row["name"] for row in of["plan"]["rows"] if row["family"] == "gradient"][-1]
    shown = next(case for case in of["cases"] if case["row"] == strongest)
    picture = Image.open(folder / shown["files"]["panel"]).convert("RGB")
    small = picture.resize((800, round(picture.height * 800 / picture.width)), Image.Resampling.LANCZOS)
    display(small.quantize(64))


show_strongest(summary, root_dir / "audit")

# %% [markdown]
# ## A second network beside it
#
# The bundle ships hardened weights as well. An override names them, as on MONAI's command line, and `compare` sets the
# first audit beside this one. Rows are compared only where they are the same test.

# %%
hardened_parts = read_bundle(bundle_dir, overrides={"checkpoint": str(bundle_dir / "models" / "hardened.pt")})
hardened = audit(
    hardened_parts,
    scans_dir,
    plan,
    root_dir / "audit_hardened",
    data_kind="phantoms",
    compare=[summary],
    title="hardened weights",
    progress=False,
)
print_findings(hardened)

# %% [markdown]
# ## A bundle of the Model Zoo
#
# Nothing changes but the folder. Overrides, where a bundle needs any, are a JSON mapping in
# `MONAI_ADVERSARIAL_TUTORIAL_OVERRIDES`. For the stored outputs the three variables are those that
# `python -m benchmarks.zoo_spleen` prints, and what they are decides what may be concluded:
#
# - The folder is the Zoo's `spleen_ct_segmentation` at commit dfae206, configs and metadata unmodified.
# - The Zoo's **weights are not in it**: they are a link that could not be followed. In their place are those of the
#   TorchScript spleen network of MONAI's Triton tutorial. It is the `UNet` of this bundle, layer for layer, half as
#   wide, so that one override lets its weights fit. No figure below is about the published weights.
# - The scan is a part of one real contrast CT without a label. What is measured is *stability*: Dice with the network's
#   own clean prediction. It says nothing about accuracy. On another scan, which has a label, the same network finds the
#   spleen in a tight crop and hardly in a wider one: `docs/audit_examples.md` has both.

# %%
named = None
if given_dir:
    overrides = json.loads(os.environ.get("MONAI_ADVERSARIAL_TUTORIAL_OVERRIDES", "{}"))
    named_parts = read_bundle(given_dir, overrides=overrides)
    named_title = named_parts.name if not overrides else f"{named_parts.name}, {', '.join(overrides)} overridden"
    print(*named_parts.facts, sep="\n")
    named = audit(
        named_parts, given_scans, plan, root_dir / "audit_named", data_kind="scans", title=named_title, progress=False
    )
    print()
    print_findings(named)
    print_health(named)
else:
    print("skipped: MONAI_ADVERSARIAL_TUTORIAL_BUNDLE names no bundle")

# %% [markdown]
# A picture says whether the network outlines what its name promises; no figure of stability does.


# %%
if named is not None:
    show_strongest(named, root_dir / "audit_named")

# %% [markdown]
# ## All audits in one picture


# %%
def means(of):
    """Row -> mean Dice, or stability, of clean, randomly changed and attacked images."""
    return {
        result["row"]: [
            result["mean"].get(image, {}).get("dice", {}).get("mean") for image in ("clean", "random", "adversarial")
        ]
        for result in of["results"]
    }


audits = {"shipped weights": summary, "hardened weights": hardened}
if named is not None:
    audits[named_title] = named
figure, axes = plt.subplots(1, len(audits), figsize=(4.6 * len(audits), 4.4), squeeze=False)
for axis, (name, one) in zip(axes[0], audits.items(), strict=True):
    rows = {row: values for row, values in means(one).items() if row != "clean"}
    place = np.arange(len(rows))
    for column, (label, color) in enumerate((("clean", "#9ecae1"), ("random", "#969696"), ("attacked", "#cb181d"))):
        heights = [np.nan if values[column] is None else values[column] for values in rows.values()]
        bars = axis.bar(place + 0.27 * (column - 1), heights, 0.26, label=label, color=color)
        axis.bar_label(bars, fmt="%.2f", fontsize=6)
    measure = "Dice" if one["data"]["with_label"] else "stability"
    axis.set_xticks(place, [titles(one)[row] for row in rows], rotation=20, ha="right", fontsize=8)
    axis.set(ylabel=f"mean {measure}", ylim=(0, 1.05))
    axis.set_title(name, fontsize=9, wrap=True)
handles, labels = axes[0, 0].get_legend_handles_labels()
figure.legend(handles, labels, ncols=3, loc="upper center", frameon=False)
figure.tight_layout(rect=(0, 0, 1, 0.92))
plt.show()

text = "**Conclusion.** "
for name, of in audits.items():
    words = ", ".join(f"{titles(of)[one.row]} {one.verdict} ({before_and_after(one)})" for one in findings_of(of))
    text += f"With {name}: {words}. "
text += f"""{summary["data"]["cases"]} phantom(s) stand behind the words about this repository's bundle"""
text += (
    "." if named is None else f""", {named["data"]["cases"]} scan(s) behind those about the bundle that was named."""
)
text += f""" They hold for these budgets and these attacks; a report lists {len(summary["not_tested"])} things that
were not tested."""
display(Markdown(text))

# %% [markdown]
# ## Cleanup data directory

# %%
shutil.rmtree(root_dir)
