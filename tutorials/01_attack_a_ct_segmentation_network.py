# %% [markdown]
# SPDX-License-Identifier: Apache-2.0
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless required by
# applicable law or agreed to in writing, software distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific language
# governing permissions and limitations under the License.
#
# # Attack a 3D CT segmentation network
#
# A U-Net that was trained in the ordinary way segments seven organs in abdominal CT. We change its input by a few HU
# per voxel, no more than the noise of this scan, and see what is left of the segmentation. In this tutorial you will:
#
# - say once what is attacked: an `AttackedModel`,
# - run PGD with a budget in HU and read its result,
# - set a random change of the same size beside it, the control without which no attack means anything,
# - draw the curve of Dice over budget,
# - save the adversarial scan as NIfTI and measure the budget again on the file,
# - attack a network that others trained and shipped as TorchScript, on a real scan, where these data are present.
#
# The CT is a phantom of this package, not a patient.
#
# `MONAI_ADVERSARIAL_TUTORIAL_FAST=1` in the environment makes everything small. The output of the data cell says in
# which mode the stored outputs were made.

# %% [markdown]
# ## Setup environment
#
# The network's weights come with the repository: clone it and install it in place.

# %%
# !python -c "import monai_adversarial" || pip install -q -e "..[tutorials]"
# %matplotlib inline

# %% [markdown]
# ## Setup imports

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display
from monai.bundle import ConfigParser
from monai.config import print_config
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    Orientationd,
    Resized,
    ScaleIntensityRanged,
)
from monai.utils import set_determinism

import monai_adversarial
from monai_adversarial.attacks import PGD
from monai_adversarial.data import CLASS_NAMES, write_ct_phantoms
from monai_adversarial.data.saving import read_back, save_adversarial_nifti, stored_grid
from monai_adversarial.inferers import ScannerSpaceInferer
from monai_adversarial.metrics import mean_foreground_dice, organ_dice
from monai_adversarial.models import AttackedModel, predict

print_config()

# %% [markdown]
# ## Setup data directory
#
# `MONAI_ADVERSARIAL_DATA` may name a folder with real data. Without it the last section is skipped.

# %%
fast = os.environ.get("MONAI_ADVERSARIAL_TUTORIAL_FAST", "0") == "1"
real_data = os.environ.get("MONAI_ADVERSARIAL_DATA")
root_dir = Path(tempfile.mkdtemp())
repository = Path(monai_adversarial.__file__).parents[1]
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
plt.rcParams.update({"figure.dpi": 70, "image.cmap": "gray"})
print("mode:", "fast" if fast else "full")

# %% [markdown]
# ## Set deterministic behavior for reproducibility

# %%
set_determinism(seed=0)

# %% [markdown]
# ## A scan as its file holds it
#
# Seeds from 1000 on were seen by no training of this network. The transforms only load: orientation, resampling and
# intensity window belong into the attacked function, so that a budget of 8 HU holds for the voxels of the file.

# %%
grid = {"size": (48, 48, 32), "spacing": (5.0, 5.0, 6.0)} if fast else {}
write_ct_phantoms(root_dir, count=1, seed=1000, progress=False, **grid)
case = {"image": root_dir / "images" / "case_000.nii.gz", "label": root_dir / "labels" / "case_000.nii.gz"}
load = Compose(
    [
        LoadImaged(keys=["image", "label"]),
        EnsureChannelFirstd(keys=["image", "label"]),
        EnsureTyped(keys=["image", "label"], device=device, track_meta=True),
    ]
)
batch = {key: value[None] for key, value in load(case).items()}
image, label = batch["image"], batch["label"]
print(f"image {tuple(image.shape)}, {image.min():.0f} to {image.max():.0f} HU, voxels of {image.pixdim[0].tolist()} mm")

# %% [markdown]
# ## The network and what belongs to it
#
# Network and inferer come from the bundle's own config. `ScannerSpaceInferer` does what the bundle's preprocessing
# does, differentiably, and brings the answer back to the grid of the file.

# %%
bundle_dir = repository / "bundles" / "ct_abdomen_unet"
config = ConfigParser()
config.read_config(bundle_dir / "configs" / "inference.yaml")
network = config.get_parsed_content("network_def").to(device)
network.load_state_dict(torch.load(bundle_dir / "models" / "model.pt", map_location=device, weights_only=True))
network.eval()

window = ScaleIntensityRanged(keys="image", a_min=-160, a_max=240, b_min=0, b_max=1, clip=True).scaler
model = AttackedModel(
    network,
    ScannerSpaceInferer(config.get_parsed_content("inferer"), pixdim=config["pixdim"], axcodes="RAS", intensity=window),
    image_units="HU",
    stored_grid=stored_grid(case["image"]),  # adversarial voxels are rounded to what this file can hold
    class_names=CLASS_NAMES,
)

# %% [markdown]
# ## PGD within 8 HU
#
# `print(result)` says what was attacked, within which measured budget, what it did, and what it cost.

# %%
steps = 2 if fast else 5
attack = PGD(epsilon=8, units="HU", steps=steps)
result = attack(model, image, label)
print(result)

# %% [markdown]
# **First look at the clean Dice.** If it is low, orientation, spacing, window or weights do not fit, and an attack has
# nothing to take. Then look at the control: a random change of the same kind and the same largest size.


# %%
organs = dict(enumerate(CLASS_NAMES[1:], start=1))


def dice_per_organ(prediction, reference):
    """Organ -> Dice."""
    return organ_dice(prediction[0], reference[0], organs, len(CLASS_NAMES), "softmax")


control_image, control_label = result.random_control()
rows = {
    "clean": dice_per_organ(result.clean_prediction, label),
    "random": dice_per_organ(predict(model, control_image), control_label),
    "PGD": dice_per_organ(result.prediction, result.label),
}
print(f"{'organ':14}" + "".join(f"{name:>10}" for name in rows))
for organ in rows["clean"]:
    print(f"{organ:14}" + "".join(f"{row[organ]:10.3f}" for row in rows.values()))
mean_dice = {name: float(np.mean(list(row.values()))) for name, row in rows.items()}
print(f"{'mean':14}" + "".join(f"{value:10.3f}" for value in mean_dice.values()))

# %% [markdown]
# ## Dice over budget
#
# One budget is one point. A curve says more, and it checks the attack: with more room Dice must not rise. Each attack
# starts where the one with less room ended, so that it can only get worse.

# %%
budgets = [8] if fast else [2, 8]
curve, start = [float(result.clean_dice)], None
for epsilon in budgets:
    found = PGD(epsilon, units="HU", steps=steps)(model, image, label, start=start)
    curve.append(float(found.adversarial_dice))
    start = found.parameters
    print(f"{epsilon} HU: mean Dice {curve[-1]:.3f}, measured {found.budgets['noise_linf'].values.max():.1f} HU")

# %% [markdown]
# ## Save, read back, measure again
#
# The file has grid, type and header fields of its input, and it is marked as adversarial in its name and header. What
# counts is the budget of the file: `verify` measures it and raises where it is exceeded.

# %%
path = save_adversarial_nifti(
    result.adversarial[0], case["image"], root_dir / "case_000_adversarial.nii.gz", clean=image[0], epsilon=8
)
saved = read_back(path)[None].to(device)
measured = result.verify(saved)["noise_linf"]
print(f"largest change in the file: {measured.values.max():.0f} HU, allowed {measured.limit:g} HU")
print("same segmentation from the file:", bool(torch.equal(predict(model, saved), result.prediction)))

# %% [markdown]
# ## A network of others on a real scan
#
# MONAI's Triton tutorial ships a spleen network as TorchScript. The scan has no label: the reference is then the
# network's own clean prediction, and what is measured is *stability*, not accuracy. Its images arrive windowed, so
# `image_units` is the default `"network"` and the map only converts the budget.

# %%
spleen_file = None if real_data is None else Path(real_data) / "spleen_torchscript" / "model.pt"
scan_file = None if real_data is None else Path(real_data) / "abdomen_ct" / "portal_venous_ct_unlabelled.nii.gz"
spleen = None
if spleen_file is None or not spleen_file.is_file() or not scan_file.is_file():
    print("skipped: there are no real data in MONAI_ADVERSARIAL_DATA")
else:
    side = 64 if fast else 96
    prepare = Compose(
        [
            LoadImaged(keys="image"),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=None),
            ScaleIntensityRanged(keys="image", a_min=-57, a_max=164, b_min=0, b_max=1, clip=True),
            CropForegroundd(keys="image", source_key="image"),
            Resized(keys="image", spatial_size=(side, side, side)),
        ]
    )
    scan = prepare({"image": scan_file})["image"][None].to(device)
    spleen_model = AttackedModel(
        torch.jit.load(spleen_file, map_location=device).eval(),
        intensity={"a_min": -57, "a_max": 164},
        class_names=["background", "spleen"],
    )
    spleen = PGD(4, units="HU", steps=2 if fast else 5)(spleen_model, scan)
    print(spleen)
    control = predict(spleen_model, spleen.random_control()[0])
    overlap = mean_foreground_dice(control, spleen.clean_prediction, 2, "softmax")
    print(f"random change of 4 HU: Dice with the clean prediction {float(overlap):.3f}")

# %% [markdown]
# ## What happened
#
# The slice is the one on which most voxels changed their class.


# %%
def axial(volume, index):
    """A slice of the phantom, turned for the screen."""
    return np.rot90(np.asarray(volume.cpu())[0, 0, :, :, index])


changed = (result.prediction != result.clean_prediction)[0, 0].sum(dim=(0, 1))
index = int(changed.argmax())
figure, axes = plt.subplots(1, 4, figsize=(15, 3.8))
for axis, scan_shown, prediction, title in (
    (axes[0], image, result.clean_prediction, f"clean, Dice {mean_dice['clean']:.2f}"),
    (axes[1], result.adversarial, result.prediction, f"PGD 8 HU, Dice {mean_dice['PGD']:.2f}"),
):
    classes = axial(prediction, index).astype(float)
    axis.imshow(axial(scan_shown, index), vmin=-160, vmax=240)
    axis.imshow(np.where(classes > 0, classes, np.nan), cmap="tab10", vmin=0, vmax=9, alpha=0.6)
    axis.set_title(title)
difference = axial(result.adversarial - image, index)
shown = axes[2].imshow(difference, cmap="RdBu", vmin=-8, vmax=8)
figure.colorbar(shown, ax=axes[2], label="HU", fraction=0.046)
axes[2].set_title("what was added")
for axis in axes[:3]:
    axis.axis("off")
axes[3].plot([0, *budgets], curve, "o-", label="PGD")
axes[3].plot([8], [mean_dice["random"]], "s", label="random, 8 HU")
axes[3].set(xlabel="budget in HU", ylabel="mean Dice over the organs", ylim=(0, 1), title="Dice over budget")
axes[3].legend()
figure.tight_layout()
plt.show()

lost, by_chance = mean_dice["clean"] - mean_dice["PGD"], mean_dice["clean"] - mean_dice["random"]
best_organ = max(rows["PGD"], key=rows["PGD"].get)
monotone = "never rose" if bool((np.diff(curve) < 1e-6).all()) else "rose in places"
text = f"""**Conclusion.** On this one phantom PGD within 8 HU took the mean Dice from {mean_dice["clean"]:.2f} to
{mean_dice["PGD"]:.2f}. A random change of the same largest size took it to {mean_dice["random"]:.2f}: of the loss
of {lost:.2f}, chance explains {max(by_chance, 0):.2f}. The organ that kept most under attack is the {best_organ}
with {rows["PGD"][best_organ]:.2f}. Along the curve Dice {monotone} with the budget."""
if spleen is not None:
    text += f""" The TorchScript network on a real scan kept a Dice of {float(spleen.adversarial_dice):.3f} with its
own clean prediction under PGD at 4 HU, and {float(overlap):.3f} under a random change of that size."""
display(Markdown(text))
