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
# - set a second network, the same bundle with hardened weights, beside the first.
#
# The bundle is the one of this repository, which was trained on CT phantoms. To audit one of the Model Zoo, name it
# in `MONAI_ADVERSARIAL_TUTORIAL_BUNDLE` (for example `spleen_ct_segmentation`) and a folder of scans in
# `MONAI_ADVERSARIAL_TUTORIAL_SCANS`: it is downloaded with `monai.bundle.download`. The cells are the same.
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
import os
import shutil
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display
from monai.bundle import download
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
zoo_name = os.environ.get("MONAI_ADVERSARIAL_TUTORIAL_BUNDLE")
if zoo_name:
    download(name=zoo_name, bundle_dir=str(root_dir))
    bundle_dir, scans_dir = root_dir / zoo_name, Path(os.environ["MONAI_ADVERSARIAL_TUTORIAL_SCANS"])
else:
    bundle_dir = Path(monai_adversarial.__file__).parents[1] / "bundles" / "ct_abdomen_unet"
    scans_dir = root_dir / "phantoms"
    # Seeds from 1000 on were seen by no training.
    grid = {"size": (40, 40, 28) if fast else (60, 60, 40), "spacing": (5.0, 5.0, 6.0)}
    write_ct_phantoms(scans_dir, count=1 if fast else 2, seed=1000, progress=False, **grid)
print("bundle:", bundle_dir.name)

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
kind = "scans" if zoo_name else "phantoms"
summary = audit(parts, scans_dir, plan, root_dir / "audit", data_kind=kind, title="shipped weights", progress=False)

# %% [markdown]
# ## Read the report
#
# `report.html` is one file that asks no host for anything; `audit.json` holds the same content. There is no score over
# rows: every row stands for itself with one of four words about the *network*: "failed" means that the attack did
# what it wanted. These are their rules.

# %%
print(*(f"{word}: {rule}" for word, rule in RULES.items()), sep="\n")
print()
titles = {row["name"]: row["title"] for row in summary["plan"]["rows"]}
for finding in findings_of(summary):
    organ = "" if finding.organ is None else "; most lost: {} {:.2f} -> {:.2f}".format(*finding.organ)
    print(f"{titles[finding.row]}: {finding.verdict} (Dice {finding.clean:.2f} -> {finding.after:.2f}{organ})")

# %% [markdown]
# **Health checks** look for signs that the evaluation is weaker than it looks: masked gradients, attacks that do no
# more than chance, budgets that change nothing. A check that fails takes "held" and "weakened" away.

# %%
for check in summary["health"]:
    if check["verdict"] != "pass":
        print(f"{check['verdict']}: {check['check']}: {check['text']}")
print(sum(check["verdict"] == "pass" for check in summary["health"]), "checks passed")

# %% [markdown]
# **What was not tested** belongs to the result.

# %%
print(*(f"- {sentence}" for sentence in summary["not_tested"]), sep="\n")

# %% [markdown]
# **Pictures.** Every case and row has one: below, that of the first case under the last row of PGD.

# %%
strongest = [row["name"] for row in summary["plan"]["rows"] if row["family"] == "gradient"][-1]
shown = next(case for case in summary["cases"] if case["row"] == strongest)
picture = Image.open(root_dir / "audit" / shown["files"]["panel"]).convert("RGB")
small = picture.resize((800, round(picture.height * 800 / picture.width)), Image.Resampling.LANCZOS)
display(small.quantize(64))

# %% [markdown]
# ## A second network beside it
#
# The bundle ships hardened weights as well. An override names them, as on MONAI's command line, and `compare` sets the
# first audit beside this one. Rows are compared only where they are the same test.

# %%
hardened = None
if not zoo_name:
    checkpoint = str(bundle_dir / "models" / "hardened.pt")
    hardened_parts = read_bundle(bundle_dir, overrides={"checkpoint": checkpoint})
    hardened = audit(
        hardened_parts,
        scans_dir,
        plan,
        root_dir / "audit_hardened",
        data_kind=kind,
        compare=[summary],
        title="hardened weights",
        progress=False,
    )

# %% [markdown]
# ## Both audits in one picture


# %%
def means(of):
    """Row -> mean Dice of clean, randomly changed and attacked images."""
    found = {}
    for result in of["results"]:
        found[result["row"]] = [
            result["mean"].get(image, {}).get("dice", {}).get("mean") for image in ("clean", "random", "adversarial")
        ]
    return found


audits = {"shipped weights": summary} | ({} if hardened is None else {"hardened weights": hardened})
figure, axes = plt.subplots(1, len(audits), figsize=(6.5 * len(audits), 4), sharey=True, squeeze=False)
for axis, (name, one) in zip(axes[0], audits.items(), strict=True):
    rows = {row: values for row, values in means(one).items() if row != "clean"}
    place = np.arange(len(rows))
    for column, (label, color) in enumerate((("clean", "#9ecae1"), ("random", "#969696"), ("attacked", "#cb181d"))):
        heights = [np.nan if values[column] is None else values[column] for values in rows.values()]
        axis.bar(place + 0.27 * (column - 1), heights, 0.26, label=label, color=color)
    axis.set_xticks(place, [titles[row] for row in rows], rotation=20, ha="right", fontsize=8)
    axis.set(title=name, ylim=(0, 1))
axes[0, 0].set_ylabel("mean Dice")
axes[0, 0].legend(fontsize=8)
figure.tight_layout()
plt.show()

verdicts = {name: {one.row: one for one in findings_of(of)} for name, of in audits.items()}
text = "**Conclusion.** "
for name, of_rows in verdicts.items():
    words = ", ".join(
        f"{titles[row]} {one.verdict} ({one.clean:.2f} → {one.after:.2f})" for row, one in of_rows.items()
    )
    text += f"With the {name}: {words}. "
text += f"""{summary["data"]["cases"]} case(s) stand behind these words. They hold for these budgets and these attacks;
the report lists {len(summary["not_tested"])} things that were not tested."""
display(Markdown(text))

# %% [markdown]
# ## Cleanup data directory

# %%
shutil.rmtree(root_dir)
