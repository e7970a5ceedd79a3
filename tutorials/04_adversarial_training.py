# %% [markdown]
# SPDX-License-Identifier: Apache-2.0
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless required by
# applicable law or agreed to in writing, software distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific language
# governing permissions and limitations under the License.
#
# # Adversarial training of a U-Net with the Ignite handlers
#
# Adversarial training shows the network attacked images while it learns. Here it is one handler on MONAI's
# `SupervisedTrainer`; loss, optimizer, inferer, validation and logging stay what they are. You will:
#
# - train a small 3D U-Net on hippocampus MRI twice, clean and against PGD, everything else equal,
# - validate clean and robust Dice side by side with `AdversarialEvaluation`,
# - attack both networks with more than they were trained against,
# - see the price on clean scans.
#
# The data are crops of the Medical Segmentation Decathlon, task 4 (CC BY-SA 4.0), in the folder `hippocampus_mri` of
# `MONAI_ADVERSARIAL_DATA`. Without them the same code trains on CT phantoms of this package. The output of the data
# cell says which it was, and in which mode. `MONAI_ADVERSARIAL_TUTORIAL_FAST=1` takes a few cases and one epoch, with
# which no network learns much.

# %% [markdown]
# ## Setup environment

# %%
# !python -c "import monai_adversarial" || pip install -q -e "..[tutorials]"
# %matplotlib inline

# %% [markdown]
# ## Setup imports

# %%
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display
from monai.config import print_config
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, MeanDice, ValidationHandler, from_engine
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    AsDiscreted,
    Compose,
    DivisiblePadd,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    MapLabelValued,
    RandSpatialCropd,
    ScaleIntensityRangePercentilesd,
    SpatialPadd,
)
from monai.utils import set_determinism

from monai_adversarial.attacks import APGD, PGD, ElasticAttack
from monai_adversarial.data import image_label_pairs, split_cases, write_ct_phantoms
from monai_adversarial.handlers import AdversarialEvaluation, AdversarialTraining
from monai_adversarial.metrics import summarize
from monai_adversarial.models import AttackedModel

print_config()

# %% [markdown]
# ## Setup data directory

# %%
fast = os.environ.get("MONAI_ADVERSARIAL_TUTORIAL_FAST", "0") == "1"
plt.rcParams.update({"figure.dpi": 70, "image.cmap": "gray"})
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
root_dir = Path(tempfile.mkdtemp())
data_dir = Path(os.environ.get("MONAI_ADVERSARIAL_DATA", root_dir)) / "hippocampus_mri"
is_mri = data_dir.is_dir()
if is_mri:
    class_names, label_values = ["background", "anterior", "posterior"], [0, 1, 2]
else:
    data_dir, class_names = root_dir / "phantoms", ["background", "liver", "spine"]
    # Of the eight classes of the phantom two large ones are kept: liver (1) and spine (7).
    label_values = [0, 1, 0, 0, 0, 0, 0, 2]
    write_ct_phantoms(data_dir, 24, size=(36, 52, 36), spacing=(9.0, 6.5, 6.0), oblique=False, progress=False)
cases = image_label_pairs(data_dir)
sizes = {"test": 2, "validation": 1, "training": 8} if fast else {"test": 10, "validation": 4, "training": 48}
if not is_mri and not fast:
    sizes = {"test": 4, "validation": 4, "training": 16}
parts = split_cases(cases[: sum(sizes.values())], sizes, seed=0)
print("mode:", "fast" if fast else "full")
print("hippocampus MRI" if is_mri else "CT phantoms", {name: len(some) for name, some in parts.items()})

# %% [markdown]
# ## Transforms and loaders
#
# Intensities are mapped to 0..1 between each image's own 1st and 99th percentile, so a budget of 0.05 is a twentieth of
# that range: MRI has no HU.

# %%
keys = ["image", "label"]
load = [
    LoadImaged(keys=keys),
    EnsureChannelFirstd(keys=keys),
    MapLabelValued(keys="label", orig_labels=list(range(len(label_values))), target_labels=label_values),
    ScaleIntensityRangePercentilesd(keys="image", lower=1, upper=99, b_min=0, b_max=1, clip=True),
    EnsureTyped(keys=keys, dtype=(torch.float32, torch.uint8)),
]
roi_size = (32, 48, 32)
train_transforms = Compose(
    [*load, SpatialPadd(keys=keys, spatial_size=roi_size), RandSpatialCropd(keys=keys, roi_size=roi_size)]
)
val_transforms = Compose([*load, DivisiblePadd(keys=keys, k=4)])
train_ds = CacheDataset(parts["training"], train_transforms, progress=False)
val_ds = CacheDataset(parts["validation"], val_transforms, progress=False)
test_ds = CacheDataset(parts["test"], val_transforms, progress=False)
val_loader = DataLoader(val_ds, batch_size=1)

# %% [markdown]
# ## One trainer, with or without the handler
#
# `AdversarialTraining` is the only difference between the two trainings. It reads network and inferer from the trainer
# when it starts, and says in the log what it attacks. The evaluator reports the Dice under attack beside the clean one.

# %%
max_epochs = 1 if fast else 10
val_interval = 1 if fast else 2
epsilon = 0.05
said = logging.StreamHandler(sys.stdout)
said.addFilter(lambda record: "Adversarial" in record.getMessage())
logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[said])


def make_network():
    return UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=3,
        channels=(16, 32, 64),
        strides=(2, 2),
        num_res_units=1,
        norm="batch",
    ).to(device)


def train(train_handlers=()):
    """A trained network, and clean and robust Dice of its validations."""
    set_determinism(seed=0)
    network = make_network()
    train_loader = DataLoader(train_ds, batch_size=4, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=max_epochs * len(train_loader) + 1
    )
    evaluator = SupervisedEvaluator(
        device=device,
        val_data_loader=val_loader,
        network=network,
        inferer=SimpleInferer(),
        postprocessing=AsDiscreted(keys=["pred", "label"], argmax=[True, False], to_onehot=3),
        key_val_metric={
            "val_mean_dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))
        },
        additional_metrics={"pgd_mean_dice": AdversarialEvaluation(PGD(epsilon, steps=2 if fast else 4), "pgd")},
    )
    curves = {"epoch": [], "clean": [], "pgd": []}
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=max_epochs,
        train_data_loader=train_loader,
        network=network,
        optimizer=optimizer,
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True),
        inferer=SimpleInferer(),
        train_handlers=[
            LrScheduleHandler(scheduler, print_lr=False, epoch_level=False),
            ValidationHandler(validator=evaluator, interval=val_interval, epoch_level=True),
            *train_handlers,
        ],
    )

    def remember(engine):
        curves["epoch"].append(trainer.state.epoch)
        curves["clean"].append(engine.state.metrics["val_mean_dice"])
        curves["pgd"].append(engine.state.metrics["pgd_mean_dice"])

    evaluator.add_event_handler("COMPLETED", remember)
    trainer.run()
    return network.eval(), curves


clean_network, clean_curves = train()
print("clean training, last validation:", {key: round(values[-1], 3) for key, values in clean_curves.items()})

# %%
hardened_network, hardened_curves = train([AdversarialTraining(PGD(epsilon, steps=2))])
print("PGD training, last validation:", {key: round(values[-1], 3) for key, values in hardened_curves.items()})

# %% [markdown]
# ## The test: stronger attacks than in training
#
# A network must not be judged by the attack it learned from. PGD gets more steps, Auto-PGD another search and another
# objective, and per patient the worst of both counts. The elastic deformation is a kind of attack that was never seen.

# %%
attacks = {
    "PGD": PGD(epsilon, steps=2 if fast else 10),
    "Auto-PGD": APGD(epsilon, steps=2 if fast else 10, schedule="constant", objective="balanced_masked_cross_entropy"),
    "elastic 3 mm": ElasticAttack(3.0, control_spacing=12.0, steps=1 if fast else 5),
}
scores = {}
for name, network in (("clean training", clean_network), ("PGD training", hardened_network)):
    model = AttackedModel(network, class_names=class_names)
    found = {"clean": [], **{attack: [] for attack in attacks}}
    for batch in DataLoader(test_ds, batch_size=1):
        image, label = batch["image"].to(device), batch["label"].to(device)
        for attack_name, attack in attacks.items():
            result = attack(model, image, label)
            found[attack_name].append(float(result.adversarial_dice))
        found["clean"].append(float(result.clean_dice))
    found["worst of both PGD"] = np.minimum(found["PGD"], found["Auto-PGD"]).tolist()
    scores[name] = {column: summarize(values) for column, values in found.items()}
for name, columns in scores.items():
    print(name)
    for column, one in columns.items():
        print(f"  {column:18} {one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}] over {one['n']} patients")

# %% [markdown]
# ## What it is worth

# %%
figure, axes = plt.subplots(1, 2, figsize=(13, 4.2))
for curves, color, name in ((clean_curves, "#1f77b4", "clean training"), (hardened_curves, "#d62728", "PGD training")):
    axes[0].plot(curves["epoch"], curves["clean"], "o-", color=color, label=f"{name}, clean")
    axes[0].plot(curves["epoch"], curves["pgd"], "s--", color=color, label=f"{name}, PGD")
axes[0].set(xlabel="epoch", ylabel="validation Dice", ylim=(0, 1), title="while training")
axes[0].legend(fontsize=8)
columns = ["clean", "PGD", "Auto-PGD", "worst of both PGD", "elastic 3 mm"]
place = np.arange(len(columns))
for offset, (name, color) in zip(
    (-0.2, 0.2), (("clean training", "#1f77b4"), ("PGD training", "#d62728")), strict=True
):
    ones = [scores[name][column] for column in columns]
    errors = [[one["mean"] - one["low"] for one in ones], [one["high"] - one["mean"] for one in ones]]
    axes[1].bar(place + offset, [one["mean"] for one in ones], 0.38, yerr=errors, color=color, label=name, capsize=3)
axes[1].set_xticks(place, columns, rotation=15)
axes[1].set(ylabel="test Dice, 95 % interval over patients", ylim=(0, 1), title="on patients never seen")
axes[1].legend(fontsize=8)
figure.tight_layout()
plt.show()

plain, hard = scores["clean training"], scores["PGD training"]
price = plain["clean"]["mean"] - hard["clean"]["mean"]
gain = hard["worst of both PGD"]["mean"] - plain["worst of both PGD"]["mean"]
elastic = hard["elastic 3 mm"]["mean"] - plain["elastic 3 mm"]["mean"]
display(
    Markdown(
        f"""**Conclusion.** On {plain["clean"]["n"]} test cases the cleanly trained network has a Dice of
{plain["clean"]["mean"]:.2f} and keeps {plain["worst of both PGD"]["mean"]:.2f} under the worse of two PGD attacks.
After PGD training the clean Dice is {hard["clean"]["mean"]:.2f} (a difference of {-price:+.2f}) and
{hard["worst of both PGD"]["mean"]:.2f} is kept ({gain:+.2f}). Against the deformation, which no training saw, the
difference is {elastic:+.2f}: robustness to noise is a statement about noise. One seed and few epochs;
docs/adversarial_training.md has two seeds, ten trainings and 30 patients."""
    )
)

# %% [markdown]
# ## Cleanup data directory

# %%
shutil.rmtree(root_dir)
