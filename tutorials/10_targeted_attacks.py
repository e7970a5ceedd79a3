# %% [markdown]
# SPDX-License-Identifier: Apache-2.0
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless required by
# applicable law or agreed to in writing, software distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific language
# governing permissions and limitations under the License.
#
# # Targeted attacks: the segmentation that the attacker wants
#
# An untargeted attack wants a wrong answer. A targeted one wants a certain answer: an organ that vanishes, grows by
# 20 ml, or lies elsewhere. That is the harder goal, and often the one that matters. You will:
#
# - make wanted segmentations in mm and ml with `attacks.targets`,
# - run targeted PGD, and ASMA, which looks for the smallest change that draws the wanted mask,
# - measure two things apart: how near the answer is to what was *wanted*, and how far it is from the *truth*,
# - keep an organ-wise table: what did the attack change that it did not want to change?
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
from monai_adversarial.attacks import ASMA, PGD
from monai_adversarial.attacks.targets import empty_organ, shifted_organ, shrunk_by_volume
from monai_adversarial.data import CLASS_NAMES, CTPhantomDataset
from monai_adversarial.metrics import organ_dice
from monai_adversarial.models import AttackedModel, predict

print_config()

# %% [markdown]
# ## Scan, network and model

# %%
fast = os.environ.get("MONAI_ADVERSARIAL_TUTORIAL_FAST", "0") == "1"
print("mode:", "fast" if fast else "full")
set_determinism(seed=0)
plt.rcParams.update({"figure.dpi": 70, "image.cmap": "gray"})
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
size = (64, 64, 32) if fast else (64, 64, 48)
turn = Orientationd(keys=["image", "label"], axcodes="RAS", labels=None)
case = CTPhantomDataset(1, seed=1002, size=size, spacing=(3.2, 3.2, 4.0), oblique=False, transform=turn)[0]
image, label = case["image"][None].to(device), case["label"][None].to(device)

bundle_dir = os.path.join(os.path.dirname(monai_adversarial.__file__), "..", "bundles", "ct_abdomen_unet")
config = ConfigParser()
config.read_config(os.path.join(bundle_dir, "configs", "inference.yaml"))
network = config.get_parsed_content("network_def").to(device)
weights = torch.load(os.path.join(bundle_dir, "models", "model.pt"), map_location=device, weights_only=True)
network.load_state_dict(weights)
network.eval()
model = AttackedModel(
    network,
    config.get_parsed_content("inferer"),
    intensity={"a_min": -160, "a_max": 240},
    image_units="HU",
    class_names=CLASS_NAMES,
)
organs = dict(enumerate(CLASS_NAMES[1:], start=1))
kidney, liver = CLASS_NAMES.index("left kidney"), CLASS_NAMES.index("liver")


def dice(prediction, reference):
    """Organ -> Dice; an organ in only one of both counts 0, one in neither is left out."""
    found = organ_dice(prediction[0], reference[0], organs, len(CLASS_NAMES), "softmax")
    return {name: value for name, value in found.items() if value == value}


def ml(prediction, organ):
    """Volume of an organ."""
    return float((prediction == organ).sum()) * 3.2 * 3.2 * 4.0 / 1000


# %% [markdown]
# ## What is wanted
#
# Target makers take a segmentation and return the one that is wanted, in the same form. The attacker starts from what
# the network says of the clean image, so that only the wanted change is asked for.

# %%
clean = predict(model, image)
wanted = {
    "left kidney vanishes": empty_organ(clean, kidney),
    "left kidney 10 mm higher": shifted_organ(clean, kidney, (0, 0, 10), spacing=(3.2, 3.2, 4.0)),
    "liver 200 ml smaller": shrunk_by_volume(clean, liver, 200, spacing=(3.2, 3.2, 4.0)),
}
for name, target in wanted.items():
    changed = float((target != clean).float().mean())
    print(f"{name:25} {changed:.2%} of the voxels change; kidney {ml(target, kidney):4.0f} ml, ", end="")
    print(f"liver {ml(target, liver):4.0f} ml")

# %% [markdown]
# ## Targeted PGD
#
# `targeted=True` makes the label what the attacker wants. Most voxels already are as wanted, so the mean over all of
# them hardly moves: `objective_region` lets the objective count where something is to change, and 10 mm around it. The
# organ that was to change is then looked at alone.


# %%
def surroundings(changed, voxels=3):
    """Voxels to change and those around them."""
    return torch.nn.functional.max_pool3d(changed.float(), 2 * voxels + 1, stride=1, padding=voxels) > 0


epsilon, steps = 8, 3 if fast else 10
results, table = {}, {}
for name, target in wanted.items():
    organ = liver if "liver" in name else kidney
    attack = PGD(epsilon, units="HU", steps=steps, targeted=True, objective="cross_entropy")
    result = attack(model, image, target, objective_region=surroundings(target != clean))
    results[name] = result
    random = predict(model, result.random_control()[0])
    others = [index for index in organs if index != organ]
    table[name] = {
        "wanted ml": ml(target, organ),
        "clean ml": ml(clean, organ),
        "random ml": ml(random, organ),
        "attacked ml": ml(result.prediction, organ),
        # Voxels of other organs that the attack changed, as a share of them.
        "side effect": float(
            ((result.prediction != clean) & torch.isin(clean, torch.tensor(others, device=device))).sum()
            / torch.isin(clean, torch.tensor(others, device=device)).sum()
        ),
        "agrees": float((result.prediction == target)[target != clean].float().mean()),
    }
for name, row in table.items():
    print(f"{name:25}", "  ".join(f"{key} {value:.2f}" for key, value in row.items()))

# %% [markdown]
# `agrees` is the share of the voxels that were to change and did. `side effect` is what changed of the other organs.

# %% [markdown]
# ## ASMA: the smallest change that does it
#
# ASMA raises the logits of the wanted class where the answer is not yet the wanted one, against the length of the
# change. The label is the wanted segmentation, `truth=` the true one. Its measure is the IoU with the wanted mask,
# which an attack makes *high*. The Dice with the truth falls on the way; it is another figure.

# %%
goal = "left kidney 10 mm higher"
asma = ASMA(epsilon, "HU", iou_goal=0.5 if fast else 0.8, organs=(kidney,), steps=4 if fast else 25)
smallest = asma(model, image, wanted[goal], truth=label)
print(smallest)
pgd_change = (results[goal].adversarial - image).square()
asma_change = (smallest.adversarial - image).square()
rms = {"PGD": float(pgd_change.mean().sqrt()), "ASMA": float(asma_change.mean().sqrt())}
print(f"IoU with the wanted mask {float(smallest.iou):.3f}, Dice with the truth {float(smallest.truth_dice):.3f}")
print(f"root mean square change: PGD {rms['PGD']:.2f} HU, ASMA {rms['ASMA']:.2f} HU")

# %% [markdown]
# ## Wanted and got

# %%
figure, axes = plt.subplots(len(wanted), 4, figsize=(13, 3.2 * len(wanted)))
for row, (name, result) in zip(axes, results.items(), strict=True):
    target = wanted[name]
    index = int((target != clean)[0, 0].sum(dim=(0, 1)).argmax())

    def axial(volume, index=index):
        return np.rot90(np.asarray(volume.cpu())[0, 0, :, :, index])

    for axis, classes, title in (
        (row[0], clean, "clean answer"),
        (row[1], target, f"wanted: {name}"),
        (row[2], result.prediction, "answer under attack"),
    ):
        shown = axial(classes).astype(float)
        axis.imshow(axial(image), vmin=-160, vmax=240)
        axis.imshow(np.where(shown > 0, shown, np.nan), cmap="tab10", vmin=0, vmax=9, alpha=0.6)
        axis.set_title(title, fontsize=9)
    row[3].imshow(axial(result.adversarial - image), cmap="RdBu", vmin=-epsilon, vmax=epsilon)
    row[3].set_title(f"what was added, within {epsilon} HU", fontsize=9)
    for axis in row:
        axis.axis("off")
figure.tight_layout()
plt.show()

lines = [
    f"{name}: {row['agrees']:.0%} of the voxels that were to change did, {row['clean ml']:.0f} ml became "
    f"{row['attacked ml']:.0f} ml (wanted {row['wanted ml']:.0f} ml, random change {row['random ml']:.0f} ml), and "
    f"{row['side effect']:.1%} of the other organs changed with it"
    for name, row in table.items()
]
display(
    Markdown(
        f"**Conclusion.** Within {epsilon} HU and {steps} steps, on this one phantom:\n\n- "
        + "\n- ".join(lines)
        + f"\n\nASMA ends with an IoU of {float(smallest.iou):.2f} between its wanted kidney and the answer, with a "
        f"change of {rms['ASMA']:.1f} HU root mean square, where PGD has {rms['PGD']:.1f} HU."
    )
)
