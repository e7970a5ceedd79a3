# %% [markdown]
# SPDX-License-Identifier: Apache-2.0
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless required by
# applicable law or agreed to in writing, software distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific language
# governing permissions and limitations under the License.
#
# # Purifiers: why the unaware table lies
#
# A purifier denoises the image before the network sees it. The usual table attacks the network, purifies the
# adversarial image, and reports how much Dice comes back. That attacker never knew the purifier. The question
# that matters is what is left against an attacker who does. In this tutorial you will:
#
# - put purifiers in front of a network, as a transform and around an inferer,
# - make the usual *unaware* table, and the *aware* one beside it,
# - differentiate through what has no gradient (`BackwardPassSubstitute`) and average over what is random
#   (`ExpectationOverTransformation`),
# - control for effort: a fair comparison gives the attacker of the undefended network the same number of steps.
#
# One CT phantom, no patient; docs/purifiers.md has the study with twenty purifiers.
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

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display
from monai.bundle import ConfigParser
from monai.config import print_config
from monai.transforms import Compose, Orientationd, ScaleIntensityRanged
from monai.utils import set_determinism

import monai_adversarial
from monai_adversarial.attacks import PGD, BackwardPassSubstitute, ExpectationOverTransformation
from monai_adversarial.data import CLASS_NAMES, CTPhantomDataset
from monai_adversarial.inferers import PurifiedInferer
from monai_adversarial.metrics import mean_foreground_dice
from monai_adversarial.models import AttackedModel, predict
from monai_adversarial.transforms import (
    BitDepthReduction,
    JPEGCompression,
    MedianDenoise,
    RandResizeShift,
    TotalVariationDenoise,
    TotalVariationDenoised,
)

print_config()

# %% [markdown]
# ## Scan, network and the undefended model

# %%
fast = os.environ.get("MONAI_ADVERSARIAL_TUTORIAL_FAST", "0") == "1"
print("mode:", "fast" if fast else "full")
set_determinism(seed=0)
plt.rcParams.update({"figure.dpi": 70, "image.cmap": "gray"})
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
size = (64, 64, 32) if fast else (64, 64, 48)
turn = Orientationd(keys=["image", "label"], axcodes="RAS", labels=None)
case = CTPhantomDataset(1, seed=1001, size=size, spacing=(3.2, 3.2, 4.0), oblique=False, transform=turn)[0]
image, label = case["image"][None].to(device), case["label"][None].to(device)

bundle_dir = os.path.join(os.path.dirname(monai_adversarial.__file__), "..", "bundles", "ct_abdomen_unet")
config = ConfigParser()
config.read_config(os.path.join(bundle_dir, "configs", "inference.yaml"))
network = config.get_parsed_content("network_def").to(device)
weights = torch.load(os.path.join(bundle_dir, "models", "model.pt"), map_location=device, weights_only=True)
network.load_state_dict(weights)
network.eval()
inferer = config.get_parsed_content("inferer")
window = {"a_min": -160, "a_max": 240}
model = AttackedModel(network, inferer, intensity=window, image_units="HU", class_names=CLASS_NAMES)

# %% [markdown]
# ## As a transform
#
# In a pipeline a purifier is one line in front of `ScaleIntensityRanged`, where images are in HU. Every purifier has an
# array form `Foo` and a dictionary form `Food`.

# %%
preprocessing = Compose(
    [
        TotalVariationDenoised(keys="image", weight=4.0),
        ScaleIntensityRanged(keys="image", a_min=-160, a_max=240, b_min=0, b_max=1, clip=True),
    ]
)
purified = preprocessing({"image": case["image"]})["image"]
removed = (purified - ((case["image"] + 160) / 400).clamp(0, 1)).square().mean().sqrt() * 400
print(f"total variation takes away {float(removed):.1f} HU root mean square of the clean scan")

# %% [markdown]
# ## Around an inferer
#
# There it can be attacked. The model applies the window before the inferer, so the purifier is told the window and its
# arguments keep their meaning in HU.

# %%
purifiers = {
    "bit depth": BitDepthReduction(intensity=window),
    "median": MedianDenoise(intensity=window),
    "total variation": TotalVariationDenoise(weight=4.0, intensity=window),
    "JPEG": JPEGCompression(intensity=window),
    "resize and shift": RandResizeShift(intensity=window, spacing=(3.2, 3.2, 4.0)),
}
if fast:
    purifiers = {name: purifiers[name] for name in ("bit depth", "median", "resize and shift")}
defended = {name: model.replace(inferer=PurifiedInferer(inferer, one)) for name, one in purifiers.items()}
for name, one in purifiers.items():
    print(f"{name:17} is attacked by: {one.gradient}")


def mean_dice(of_model, scan):
    """Mean Dice over the organs."""
    return float(mean_foreground_dice(predict(of_model, scan), label, len(CLASS_NAMES), "softmax"))


# %% [markdown]
# ## The unaware attacker
#
# It attacks the network as if there were no purifier. Then the purifier works on what it left.

# %%
epsilon, steps = 8, 2 if fast else 5
unaware = PGD(epsilon, units="HU", steps=steps)(model, image, label)
longer = PGD(epsilon, units="HU", steps=steps)(model, image, label, start=unaware.parameters)
clean_undefended = float(unaware.clean_dice)
undefended, undefended_longer = float(unaware.adversarial_dice), float(longer.adversarial_dice)
print(f"undefended: clean {clean_undefended:.3f}, PGD {undefended:.3f}, with twice the steps {undefended_longer:.3f}")

# %% [markdown]
# ## The aware attacker
#
# The same attack, the same budget, but on the defended model, going on from where the unaware attacker stopped: whoever
# knows more may at least use what the other found. `BackwardPassSubstitute` differentiates what can be differentiated
# and takes each purifier's declared stand-in elsewhere. A purifier that draws random numbers needs an average over
# draws. Without a stand-in an attack on a purifier without gradient is refused, so that no attack is weak unnoticed:

# %%
try:
    PGD(epsilon, units="HU", steps=1)(defended["bit depth"], image, label)
except Exception as error:
    print(f"{type(error).__name__}: {error}")

# %%
samples = 2 if fast else 4
table = {}
for name, purified_model in defended.items():
    gradient = BackwardPassSubstitute()
    if "resize" in name:
        gradient = ExpectationOverTransformation(samples, gradient)
    attack = PGD(epsilon, units="HU", steps=steps, gradient=gradient)
    aware = attack(purified_model, image, label, start=unaware.parameters)
    unaware_dice = mean_dice(purified_model, unaware.adversarial)
    # The attacker may keep the unaware image where that hurts more.
    aware_dice = min(mean_dice(purified_model, aware.adversarial), unaware_dice)
    table[name] = (mean_dice(purified_model, image), unaware_dice, aware_dice)
    measured = float(aware.budgets["noise_linf"].values.max())
    clean, left, adaptive = table[name]
    print(f"{name:17} clean {clean:.3f}  unaware {left:.3f}  aware {adaptive:.3f}  ({measured:.1f} HU)")

# %% [markdown]
# ## The two tables in one picture
#
# The gray bars are what a paper with the unaware attacker reports. The red ones are what the defense is worth. The
# dashed line is the undefended network against as many steps as the aware attacker had in all.

# %%
names = list(table)
place = np.arange(len(names))
figure, axis = plt.subplots(figsize=(11, 4.2))
for offset, column, color, title in (
    (-0.27, 0, "#9ecae1", "clean, purified"),
    (0.0, 1, "#969696", "unaware attacker"),
    (0.27, 2, "#cb181d", "aware attacker"),
):
    axis.bar(place + offset, [table[name][column] for name in names], 0.26, color=color, label=title)
axis.axhline(clean_undefended, color="#3182bd", linewidth=1, label="clean, no purifier")
axis.axhline(undefended_longer, color="black", linestyle="--", linewidth=1, label="attacked, no purifier, same steps")
axis.set_xticks(place, names)
axis.set(ylabel="mean Dice over the organs", ylim=(0, 1.25), title=f"PGD within {epsilon} HU, one phantom")
axis.legend(loc="upper right", ncols=2, fontsize=8)
figure.tight_layout()
plt.show()

best = max(names, key=lambda name: table[name][1])
recovered = table[best][1] - undefended
kept = table[best][2] - undefended_longer
best_aware = max(names, key=lambda name: table[name][2])
display(
    Markdown(
        f"""**Conclusion.** By the unaware table "{best}" is the best of these purifiers: it brings the Dice from
{undefended:.2f} back to {table[best][1]:.2f}, a gain of {recovered:.2f}. Against an attacker who knows it,
{table[best][2]:.2f} is left, where the undefended network has {undefended_longer:.2f} after as many steps: a gain
of {kept:+.2f}. The best against the aware attacker is "{best_aware}" with {table[best_aware][2]:.2f}. On clean
scans the purifiers cost from {clean_undefended - max(row[0] for row in table.values()):+.3f} to
{clean_undefended - min(row[0] for row in table.values()):+.3f} of Dice. One phantom and few steps: a longer attack
may lower the red bars further."""
    )
)
