# %% [markdown]
# SPDX-License-Identifier: Apache-2.0
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless required by
# applicable law or agreed to in writing, software distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific language
# governing permissions and limitations under the License.
#
# # Detect, reject, and the adversarial risk
#
# A detector looks at an image before anyone believes the segmentation, and rejects what looks attacked. An attack on
# such a system has to do two things: fool the network, and be accepted. The share of images that are wrong *and*
# accepted is the adversarial risk. You will:
#
# - fit three detectors to clean scans, and calibrate each so that it rejects one clean scan in ten,
# - count what they reject of held-out clean scans, and of clean scans from another scanner,
# - attack without and with knowledge of the detector, and see which of the two figures is worth printing,
# - draw the scores of clean, attacked and knowingly attacked scans beside the threshold.
#
# CT phantoms, no patients. `MONAI_ADVERSARIAL_TUTORIAL_FAST=1` in the environment makes everything small. The output of
# the data cell says in which mode the stored outputs were made.

# %% [markdown]
# ## Setup environment

# %%
# !python -c "import monai_adversarial" || pip install -q -e "..[tutorials,detection]"
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
from monai_adversarial.attacks import PGD
from monai_adversarial.data import CLASS_NAMES, CTPhantomDataset
from monai_adversarial.detection import (
    DetectionTable,
    FeatureSqueezing,
    FrequencyProfile,
    GaussianDensity,
    evaluate_detector,
)
from monai_adversarial.models import AttackedModel
from monai_adversarial.transforms import GaussianDenoise, MedianDenoise

print_config()

# %% [markdown]
# ## Scans, network and model
#
# A detector needs many clean cases: some to fit, others to calibrate, and others again to count what it rejects. Those
# that are attacked are among the last ones. The scans are coarser than those that the network was trained on, so that
# its Dice is lower than usual and the notebook is quick.

# %%
fast = os.environ.get("MONAI_ADVERSARIAL_TUTORIAL_FAST", "0") == "1"
print("mode:", "fast" if fast else "full")
set_determinism(seed=0)
plt.rcParams.update({"figure.dpi": 70})
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
counts = {"fit": 8, "calibrate": 9, "held out": 4} if fast else {"fit": 24, "calibrate": 29, "held out": 20}
attacked_cases = 1 if fast else 4
size = (32, 32, 32) if fast else (48, 48, 32)
turn = Orientationd(keys=["image", "label"], axcodes="RAS", labels=None)
phantoms = CTPhantomDataset(
    sum(counts.values()), seed=4000, size=size, spacing=(4.0, 4.0, 5.0), oblique=False, transform=turn
)
cases = [phantoms[number] for number in range(len(phantoms))]
images = torch.stack([case["image"].as_tensor() for case in cases]).to(device)
labels = torch.stack([case["label"].as_tensor().long() for case in cases]).to(device)
fit, calibrate, held_out = images.split(list(counts.values()))
held_out_labels = labels[-counts["held out"] :]

bundle_dir = os.path.join(os.path.dirname(monai_adversarial.__file__), "..", "bundles", "ct_abdomen_unet")
config = ConfigParser()
config.read_config(os.path.join(bundle_dir, "configs", "inference.yaml"))
network = config.get_parsed_content("network_def").to(device)
weights = torch.load(os.path.join(bundle_dir, "models", "model.pt"), map_location=device, weights_only=True)
network.load_state_dict(weights)
model = AttackedModel(
    network.eval(), intensity={"a_min": -160, "a_max": 240}, image_units="HU", class_names=CLASS_NAMES
)
print(counts, "scans of", size, "voxels")

# %% [markdown]
# ## Fit and calibrate
#
# `GaussianDensity` knows the features of clean scans inside the network, `FrequencyProfile` the spectrum of clean
# scans without any network, and `FeatureSqueezing` compares the segmentation with that of a denoised scan. The
# threshold is that of split conformal prediction: of new clean scans like those of the calibration, at most a tenth is
# rejected on average. Scans of the fit must not be used to calibrate, and the detector refuses them.

# %%
rate = 0.1
detectors = {
    "features": GaussianDensity(model),
    "spectrum": FrequencyProfile(model),
    "squeezing": FeatureSqueezing(
        model, [MedianDenoise(3), GaussianDenoise(2.0, spacing=(4.0, 4.0, 5.0))], reduction="mean"
    ),
}
for name, detector in detectors.items():
    detector.fit(fit.split(4))
    scores = detector.calibrate(calibrate.split(4), false_positive_rate=rate)
    print(f"{name:10} clean scores {float(scores.min()):8.2f} to {float(scores.max()):8.2f}, ", end="")
    print(f"threshold {detector.threshold:8.2f}")
try:
    detectors["features"].calibrate(fit, false_positive_rate=rate)
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# ## Clean scans, and clean scans from elsewhere
#
# The promise holds for scans like those of the calibration. A softer kernel or more noise is no attack, and a detector
# that has never seen them may call them one. That is measured here and not hoped for.


# %%
def softer(scan):
    """A softer reconstruction kernel."""
    return torch.nn.functional.avg_pool3d(scan, 3, stride=1, padding=1, count_include_pad=False) / 2 + scan / 2


def noisier(scan):
    """10 HU more noise."""
    return scan + 10 * torch.randn(scan.shape, generator=torch.Generator().manual_seed(0)).to(scan.device)


elsewhere = {"held out": held_out, "softer kernel": softer(held_out), "10 HU more noise": noisier(held_out)}
rejected = {
    name: {place: float((~detector.accept(scans)).float().mean()) for place, scans in elsewhere.items()}
    for name, detector in detectors.items()
}
for name, shares in rejected.items():
    print(f"{name:10}", ", ".join(f"{place} {share:.2f}" for place, share in shares.items()))

# %% [markdown]
# ## The attacker who does not know, and the one who does
#
# `evaluate_detector` attacks twice. The first attacker knows the network alone. The second one knows the detector as
# well: its score is a term of the objective, here with two weights. It begins where the first one ended and from a
# start of its own. What counts of each case is the wrong image with the lowest score. The table cannot be printed
# without the second attacker. (Without `attackers=` two more are tried, which takes longer: one that hides among the
# features of clean scans, and one that steps orthogonally to the detector's gradient.)
#
# Wrong means that the Dice falls below half of the clean one. An image that is accepted and a little less wrong is not
# counted: a detector may limit an attack, and not only find it.

# %%
epsilon, steps = 8, 2 if fast else 6
attack = PGD(epsilon, units="HU", steps=steps)
chosen = held_out[:attacked_cases], held_out_labels[:attacked_cases]
rows = {}
for name, detector in detectors.items():
    weights = [1.0] if fast else [1.0, 10.0]
    rows[name] = evaluate_detector(detector, attack, [chosen], weights, attackers=["evading"])
print(DetectionTable(list(rows.values()), false_positive_rate=rate))

# %% [markdown]
# AUROC compares all scores with all others, and asks nobody for a threshold. The second attacker needs no score like
# that of a clean scan: it is enough to stay below the threshold. So its AUROC may be high where every one of its images
# is accepted. Wrong and accepted is the figure to print, with the share of clean scans that are rejected beside it.
#
# A risk of zero says that this attacker did not manage it in its few steps, and is no proof that another one cannot.

# %% [markdown]
# ## Scores beside the threshold, and the risk

# %%
figure, axes = plt.subplots(1, len(detectors) + 1, figsize=(15, 3.8))
colors = {"clean": "#525252", "PGD": "#2171b5", "PGD that knows": "#cb181d"}
for axis, (name, detector) in zip(axes, detectors.items(), strict=False):
    row = rows[name]
    groups = {
        "clean": (detector.score(held_out).cpu(), torch.zeros(len(held_out), dtype=torch.bool)),
        "PGD": (row.unaware.scores, row.unaware.wrong),
        "PGD that knows": (row.adaptive.scores, row.adaptive.wrong),
    }
    for place, (group, (scores, wrong)) in enumerate(groups.items()):
        across = place + np.linspace(-0.2, 0.2, len(scores))
        filled = wrong.numpy() if group != "clean" else np.ones(len(scores), dtype=bool)
        axis.scatter(across[filled], scores.numpy()[filled], color=colors[group], s=18)
        axis.scatter(across[~filled], scores.numpy()[~filled], edgecolor=colors[group], facecolor="none", s=18)
    axis.axhline(detector.threshold, color="black", linewidth=0.8, linestyle="--")
    axis.set(xticks=range(3), xticklabels=["clean", "PGD", "PGD that\nknows"], title=f"{name}: score")
    if name != "squeezing":
        axis.set_yscale("log")
bars = {"no detector": [float(row.unaware.wrong.double().mean()) for row in rows.values()]}
numbers = {name: row.numbers(rate) for name, row in rows.items()}
bars["PGD"] = [numbers[name]["unaware_adversarial_risk"] for name in rows]
bars["PGD that knows"] = [numbers[name]["adaptive_adversarial_risk"] for name in rows]
for place, (name, values) in enumerate(bars.items()):
    color = colors.get(name, "#bdbdbd")
    axes[-1].bar(np.arange(len(rows)) + 0.27 * (place - 1), values, width=0.25, label=name, color=color)
axes[-1].set(xticks=range(len(rows)), xticklabels=list(rows), ylim=(0, 1.45), title="wrong and accepted")
axes[-1].legend(fontsize=8, loc="upper left")
figure.tight_layout()
plt.show()

lines = [
    f"{name}: {values['unaware_adversarial_risk']:.2f} of the scans are wrong and accepted by an attacker who does not "
    f"know it, and {values['adaptive_adversarial_risk']:.2f} by one who does. AUROC is {values['unaware_auroc']:.2f} "
    f"and {values['adaptive_auroc']:.2f}. It rejects {rejected[name]['held out']:.2f} of the clean scans, "
    f"{rejected[name]['softer kernel']:.2f} with a softer kernel and {rejected[name]['10 HU more noise']:.2f} "
    "with more noise."
    for name, values in numbers.items()
]
display(
    Markdown(
        f"**Conclusion.** Without a detector {bars['no detector'][0]:.2f} of {attacked_cases} scans become wrong "
        f"within {epsilon} HU and {steps} steps. With one that is to reject {rate:.0%} of the clean scans:\n\n- "
        + "\n- ".join(lines)
        + f"\n\nDots that are filled are wrong answers, the dashed line is the threshold. {counts['held out']} clean "
        f"and {attacked_cases} attacked phantoms show how to measure, and not what a detector is worth in a clinic."
    )
)
