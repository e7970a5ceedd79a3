# %% [markdown]
# SPDX-License-Identifier: Apache-2.0
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless required by
# applicable law or agreed to in writing, software distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific language
# governing permissions and limitations under the License.
#
# # Black-box attacks: what a question is worth
#
# A network on a server shows no gradients. Its attacker can ask questions, or attack another network and hope that
# the result transfers. Both say less than a white-box attack, and both are a check on one: where questions beat
# gradients, the gradients are masked. You will:
#
# - attack by questions alone, within the same budget in HU, and count the questions,
# - draw Dice over the number of questions, beside the gradient's,
# - transfer an attack from another network that is never told about the target,
# - catch a defense that only looks robust, because its gradients are gone.
#
# One CT phantom, no patient. `MONAI_ADVERSARIAL_TUTORIAL_FAST=1` in the environment makes everything small. The
# output of the data cell says in which mode the stored outputs were made.

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
from monai.transforms import Orientationd
from monai.utils import set_determinism

import monai_adversarial
from monai_adversarial.attacks import (
    NES,
    PGD,
    AdditiveNoise,
    Attack,
    EnsembleTransfer,
    HardDice,
    RandomSearch,
    SquareAttack,
)
from monai_adversarial.data import CLASS_NAMES, CTPhantomDataset
from monai_adversarial.metrics import mean_foreground_dice
from monai_adversarial.models import AttackedModel, predict

print_config()

# %% [markdown]
# ## Scan, networks and models
#
# The target is the bundle's U-Net. A second set of weights, hardened by adversarial training, is the other network
# that an attacker may have.

# %%
fast = os.environ.get("MONAI_ADVERSARIAL_TUTORIAL_FAST", "0") == "1"
print("mode:", "fast" if fast else "full")
set_determinism(seed=0)
plt.rcParams.update({"figure.dpi": 70})
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
size = (64, 64, 32) if fast else (64, 64, 48)
turn = Orientationd(keys=["image", "label"], axcodes="RAS", labels=None)
case = CTPhantomDataset(1, seed=1000, size=size, spacing=(3.2, 3.2, 4.0), oblique=False, transform=turn)[0]
image, label = case["image"][None].to(device), case["label"][None].to(device)
bundle_dir = os.path.join(os.path.dirname(monai_adversarial.__file__), "..", "bundles", "ct_abdomen_unet")


def load_model(weights):
    """The bundle's network with some of its weights."""
    config = ConfigParser()
    config.read_config(os.path.join(bundle_dir, "configs", "inference.yaml"))
    network = config.get_parsed_content("network_def").to(device)
    path = os.path.join(bundle_dir, "models", weights)
    network.load_state_dict(torch.load(path, map_location=device, weights_only=True))
    return AttackedModel(
        network.eval(),
        config.get_parsed_content("inferer"),
        intensity={"a_min": -160, "a_max": 240},
        image_units="HU",
        class_names=CLASS_NAMES,
    )


model, hardened = load_model("model.pt"), load_model("hardened.pt")


def dice(of_model, scan):
    """Mean Dice over the organs."""
    return float(mean_foreground_dice(predict(of_model, scan), label, len(CLASS_NAMES), "softmax"))


clean_dice = dice(model, image)
print(f"target: clean Dice {clean_dice:.3f}; other network: {dice(hardened, image):.3f}")

# %% [markdown]
# ## Questions
#
# A search without gradients asks about finished images and gets the value of an objective. `RandomSearch` asks about
# independent draws and keeps the worst: the baseline. `SquareAttack` changes cubes, large ones first, and keeps what
# made the answer worse. With `HardDice()` the objective is the score itself, so that its history is the Dice after each
# question. `NES` estimates a gradient from questions about pairs of images, in blocks of noise, and needs an objective
# that answers to small changes: Dice + cross-entropy, its default.

# %%
epsilon = 8
queries = 12 if fast else 50
searches = {
    "random search": Attack(
        AdditiveNoise(epsilon, units="HU"), HardDice(), RandomSearch(), steps=queries, random_start=True
    ),
    "square attack": SquareAttack(epsilon, units="HU", queries=queries, objective=HardDice()),
}
searches["NES"] = NES(epsilon, units="HU", queries=queries, samples=4 if fast else 10)
asked, history = {}, {}
for name, attack in searches.items():
    asked[name] = attack(model, image, label)
    if name != "NES":
        values = asked[name].objective_history[:, 0].double().cpu().numpy()
        history[name] = 1 - np.fmax.accumulate(values)
    print(f"{name}: {asked[name].queries} questions, {asked[name].backwards} backward passes, Dice ", end="")
    print(f"{clean_dice:.3f} -> {float(asked[name].adversarial_dice):.3f}")

# %% [markdown]
# ## Gradients, for comparison
#
# A forward and a backward pass count as two here, which is generous to the questions.

# %%
white = {}
for steps in (1, 2) if fast else (1, 2, 5, 10):
    result = PGD(epsilon, units="HU", steps=steps)(model, image, label)
    white[2 * steps] = float(result.adversarial_dice)
    print(f"PGD, {steps} steps: Dice {white[2 * steps]:.3f}")

# %% [markdown]
# ## Transfer
#
# The attacker attacks the network that it has, and sends the image to the one that it does not have. The other way
# round is shown as well: transfer is not symmetric. `EnsembleTransfer` does it with momentum, input diversity and
# smoothed gradients, which are meant to make an attack less special to its source; the target is asked about the clean
# image and the outcome alone.

# %%
transfer = {}
steps = 2 if fast else 10
for name, source, target in (
    ("clean to hardened", model, hardened),
    ("hardened to clean", hardened, model),
):
    made = PGD(epsilon, units="HU", steps=steps)(source, image, label)
    transfer[name] = (float(made.adversarial_dice), dice(target, made.adversarial), dice(target, image))
    own, there, before = transfer[name]
    print(f"{name}: at home {own:.3f}, at the other network {there:.3f} (its clean Dice {before:.3f})")

ensemble = EnsembleTransfer(epsilon, [hardened], units="HU", steps=steps)(model, image, label)
print(f"EnsembleTransfer, hardened to clean: {float(ensemble.adversarial_dice):.3f}, ", end="")
print(f"{ensemble.queries} questions to the target")

# %% [markdown]
# ## A defense that only looks robust
#
# The wrapper below rounds the network's logits to whole multiples of 4. The segmentation hardly changes, and the
# derivative of rounding is zero: a gradient attack learns nothing. Whoever reports its Dice reports a mistake of the
# evaluation. Questions do not care. `AutoAttack3D` looks for such signs by itself (docs/gradient_masking.md).


# %%
class RoundedLogits(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, scan):
        logits = self.network(scan)
        # A small share of the logits decides between classes that are rounded to the same.
        return (logits / 4).round() * 4 + 1e-4 * logits.detach()


masked = model.replace(network=RoundedLogits(model.network).eval())
by_gradient = PGD(epsilon, units="HU", steps=steps, random_start=False)(masked, image, label)
by_questions = SquareAttack(epsilon, units="HU", queries=queries, objective=HardDice())(masked, image, label)
zeros = float(by_gradient.zero_gradient_fraction.mean())
masked_dice = {
    "clean": float(by_gradient.clean_dice),
    "PGD": float(by_gradient.adversarial_dice),
    "questions": float(by_questions.adversarial_dice),
    "transfer": dice(masked, PGD(epsilon, units="HU", steps=steps)(model, image, label).adversarial),
}
print(f"{zeros:.0%} of the gradient's entries are zero;", {k: round(v, 3) for k, v in masked_dice.items()})

# %% [markdown]
# ## What a question is worth

# %%
figure, axes = plt.subplots(1, 2, figsize=(13, 4.2))
for name, curve in history.items():
    axes[0].plot(np.arange(1, len(curve) + 1), curve, label=name)
axes[0].plot([queries], [float(asked["NES"].adversarial_dice)], "^", color="#2ca02c", label="NES")
axes[0].plot(list(white), list(white.values()), "o-", color="#cb181d", label="PGD (forward + backward = 2)")
axes[0].axhline(clean_dice, color="black", linewidth=0.8, label="clean")
axes[0].set(
    xlabel="passes through the network", ylabel="mean Dice", ylim=(0, 1), title=f"within {epsilon} HU, one phantom"
)
axes[0].legend(fontsize=8)
colors = ["#9ecae1", "#cb181d", "#fb6a4a", "#fdae6b"]
axes[1].bar(list(masked_dice), list(masked_dice.values()), color=colors)
axes[1].set(ylim=(0, 1), title="rounded logits: gradients are gone, weaknesses are not")
figure.tight_layout()
plt.show()

square, random = float(asked["square attack"].adversarial_dice), float(asked["random search"].adversarial_dice)
most = max(white)
_, there, _ = transfer["hardened to clean"]
_, other, other_before = transfer["clean to hardened"]
display(
    Markdown(
        f"""**Conclusion.** From a clean Dice of {clean_dice:.2f}, {queries} questions bring the square attack to
{square:.2f}, NES to {float(asked["NES"].adversarial_dice):.2f} and random search to {random:.2f}. PGD leaves
{white[most]:.2f} after {most} passes. An attack on the hardened network leaves the target {there:.2f}
({float(ensemble.adversarial_dice):.2f} with EnsembleTransfer); one on the target leaves the hardened network
{other:.2f} of {other_before:.2f}. With rounded logits {zeros:.0%} of the gradient's entries are zero and PGD leaves
{masked_dice["PGD"]:.2f} of {masked_dice["clean"]:.2f}, questions {masked_dice["questions"]:.2f}, and an attack that
was made without the rounding {masked_dice["transfer"]:.2f}: the lowest of them is what the defense is worth."""
    )
)
