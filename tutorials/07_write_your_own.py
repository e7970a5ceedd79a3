# %% [markdown]
# SPDX-License-Identifier: Apache-2.0
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless required by
# applicable law or agreed to in writing, software distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific language
# governing permissions and limitations under the License.
#
# # Write your own perturbation, objective, search and purifier
#
# An attack is four independent parts: a perturbation (how may the image change?), an objective (what does the
# attacker want?), a gradient estimator and a search (how does it move?). Each part is a small class. You will write
# four parts that the package does not have, and combine them with those that it has:
#
# - a perturbation with a physical meaning: cupping, the dark center that beam hardening leaves, bounded in HU,
# - an objective of one's own: make the liver's volume small,
# - a search that asks questions only, without gradients,
# - a purifier, and an attacker who knows it.
#
# The base of this tutorial is docs/extending.md, which has the contracts of all parts.
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
from monai.transforms import Orientationd
from monai.utils import set_determinism

import monai_adversarial
from monai_adversarial.attacks import (
    PGD,
    AdditiveNoise,
    Attack,
    BackwardPassSubstitute,
    BoundPerturbation,
    Measurement,
    Objective,
    Perturbation,
    Search,
    SearchRun,
    SteepestAscent,
)
from monai_adversarial.data import CLASS_NAMES, CTPhantomDataset
from monai_adversarial.inferers import PurifiedInferer
from monai_adversarial.metrics import organ_dice
from monai_adversarial.models import AttackedModel, predict
from monai_adversarial.transforms import Purifier

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
inferer = config.get_parsed_content("inferer")
window = {"a_min": -160, "a_max": 240}
model = AttackedModel(network, inferer, intensity=window, image_units="HU", class_names=CLASS_NAMES)
liver = CLASS_NAMES.index("liver")
steps = 3 if fast else 8

# %% [markdown]
# ## A perturbation
#
# `bind` ties it to a clean batch; what is bound is pure functions of explicit parameters with a leading batch
# dimension. Zero parameters are the identity. `zeros`, `apply` and `radii` are all that it needs: random starts,
# projection and random controls follow from them. An image whose values leave what a scanner or its file can hold is
# refused at the end, which `into_range` prevents. `measure` says in the budget's own units what is verified on the
# finished image.
#
# Cupping here is a paraboloid along each axis of the slice: two numbers in HU. Its largest change is the sum of both,
# so each gets half of the budget.


# %%
class Cupping(Perturbation):
    """The center of each slice becomes darker or brighter, by at most ``depth`` HU."""

    units = "HU"

    def __init__(self, depth):
        self.depth = depth

    def bind(self, scene):
        return BoundCupping(scene, self.depth)


class BoundCupping(BoundPerturbation):
    def __init__(self, scene, depth):
        super().__init__(scene)
        self.depth = depth
        axes = [torch.linspace(-1, 1, n, device=scene.image.device) for n in scene.image.shape[2:4]]
        # 1 in the middle, 0 at the border.
        self.bowls = (1 - axes[0].square()).view(1, 1, -1, 1, 1), (1 - axes[1].square()).view(1, 1, 1, -1, 1)

    def zeros(self):
        return (self.scene.image.new_zeros(self.scene.batch, 2),)

    @property
    def radii(self):
        return (torch.tensor(self.depth / 2),)

    def apply(self, image, parameters):
        first, second = (parameters[0][:, i].view(-1, 1, 1, 1, 1) for i in range(2))
        # Values that scanner and file can hold: air does not become darker than air.
        return self.into_range(image + first * self.bowls[0] + second * self.bowls[1], image)

    def measure(self, image, adversarial, parameters, rounding=0.0):
        change = (adversarial - image).flatten(1).abs().amax(dim=1)
        # float32 holds 1024 HU to about 1e-4.
        return {"cupping": Measurement(change, "HU", limit=self.depth, tolerance=rounding + 1e-3)}


# Steps that fall from twice the budget, as in PGD, and starts in several corners: two parameters have local optima.
falling = SteepestAscent(2.0, schedule="linear")
cupping = Attack(Cupping(40.0), search=falling, steps=steps, restarts=2 if fast else 4)
cupped = cupping(model, image, label)
print(cupped)
control = predict(model, cupped.random_control()[0])
organs = dict(enumerate(CLASS_NAMES[1:], start=1))


def dice(prediction):
    """Mean Dice over the organs, and that of the liver."""
    scores = organ_dice(prediction[0], label[0], organs, len(CLASS_NAMES), "softmax")
    return float(np.nanmean(list(scores.values()))), scores["liver"]


print(f"random cupping within 40 HU: Dice {dice(control)[0]:.3f}")

# %% [markdown]
# ## An objective
#
# One number per sample that the attacker wants large. `logits` are (batch, class, spatial...), `target` is the
# reference. This one does not care for the reference: it wants a small liver, so its value is minus the liver's
# expected share of the volume. An objective that is a function of sums over voxels may derive from `AdditiveObjective`;
# then it works in the memory of one window (docs/extending.md).


# %%
class SmallVolume(Objective):
    """Minus the expected share of the voxels that one class takes."""

    def __init__(self, channel):
        self.channel = channel

    def value(self, logits, target, progress, targeted=False):
        return -logits.softmax(dim=1)[:, self.channel].flatten(1).mean(dim=1)


def liver_ml(prediction):
    """Volume of the liver."""
    return float((prediction == liver).sum()) * 3.2 * 3.2 * 4.0 / 1000


shrinking = PGD(4, units="HU", steps=steps, objective=SmallVolume(liver))
shrunk = shrinking(model, image, label)
volumes = {
    "label": liver_ml(label),
    "clean": liver_ml(shrunk.clean_prediction),
    "random": liver_ml(predict(model, shrunk.random_control()[0])),
    "attacked": liver_ml(shrunk.prediction),
}
print({name: f"{volume:.0f} ml" for name, volume in volumes.items()})

# %% [markdown]
# ## A search without gradients
#
# It sees values only, one query per sample and step. This one is a hill climb with a step that shrinks: from the best
# point so far it tries a random direction, and the step follows the share of the questions that are left. `self.best`
# keeps the best point of each sample, `self.generators` are random numbers of its own for each sample, so that batch
# size and order change nothing.


# %%
class HillClimb(Search):
    """Random directions from the best point, in steps that shrink."""

    uses_gradients = False

    def begin(self, bound, steps):
        return HillClimbRun(bound, steps)


class HillClimbRun(SearchRun):
    def advance(self, parameters, gradients, values, step):
        best = self.best(parameters, values)
        if step == self.steps - 1:
            return best  # the last query scores the outcome
        size = 1 - step / self.steps
        direction = self.bound.random(self.generators)
        return self.bound.project(tuple(b + size * d for b, d in zip(best, direction, strict=True)))


queries = 10 if fast else 40
climb = Attack(Cupping(40.0), "dice_ce", HillClimb(), steps=queries)
climbed = climb(model, image, label)
print(climbed)

# %% [markdown]
# ## A purifier, and who knows it
#
# It works on plain batches and says how it may be attacked: `gradient = "exact"` is differentiated as it is. This one
# takes a paraboloid out of each slice by least squares, which is meant for our cupping. `in_hounsfield = False` says
# that it counts in no unit.


# %%
class RemoveBowl(Purifier):
    """Subtracts, slice by slice, the parabolas that fit the image best."""

    gradient = "exact"
    in_hounsfield = False

    def purify(self, image, context):
        x, y = (torch.linspace(-1, 1, n, device=image.device, dtype=image.dtype) for n in image.shape[2:4])
        x, y = (1 - x.square())[:, None].expand(-1, len(y)), (1 - y.square())[None].expand(len(x), -1)
        basis = torch.stack([x - x.mean(), y - y.mean()]).flatten(1).T  # (voxels of a slice, 2)
        slices = image.flatten(2, 3)  # (batch, channel, voxels of a slice, slices)
        inverse = torch.linalg.pinv(basis)
        bowls = basis @ (inverse @ slices)
        # Its mean over the case is anatomy: the middle of a body is brighter than its border.
        return (slices - (bowls - bowls.mean(dim=3, keepdim=True))).view_as(image)


guarded = model.replace(inferer=PurifiedInferer(inferer, RemoveBowl()))
guarded_clean = dice(predict(guarded, image))[0]
unaware = dice(predict(guarded, cupped.adversarial))[0]
aware = Attack(Cupping(40.0), search=falling, steps=steps, gradient=BackwardPassSubstitute())(
    guarded, image, label, start=cupped.parameters
)
aware_dice = min(float(aware.adversarial_dice), unaware)
print(f"with RemoveBowl: clean {guarded_clean:.3f}, unaware {unaware:.3f}, aware {aware_dice:.3f}")

# %% [markdown]
# ## All of them
#
# Parts are independent: own parts go together with those of the package. Beside each attack stands a random change of
# its kind and size.

# %%
attacks = {
    "Cupping + steepest ascent": cupped,
    "Cupping + HillClimb": climbed,
    "noise 4 HU + SmallVolume": shrunk,
    "noise 4 HU + HillClimb": Attack(AdditiveNoise(4, units="HU"), "dice_ce", HillClimb(), steps=queries)(
        model, image, label
    ),
}
clean_dice = dice(cupped.clean_prediction)[0]
bars = {}
for name, result in attacks.items():
    bars[name] = (dice(predict(model, result.random_control()[0]))[0], dice(result.prediction)[0])

figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), width_ratios=[1, 1, 2])
middle = image.shape[-1] // 2
shown = axes[0].imshow(
    np.rot90(np.asarray((cupped.adversarial - image).cpu())[0, 0, :, :, middle]), cmap="RdBu", vmin=-40, vmax=40
)
figure.colorbar(shown, ax=axes[0], label="HU", fraction=0.046)
axes[0].set_title("what Cupping added")
axes[0].axis("off")
axes[1].bar(list(volumes), list(volumes.values()), color=["#999999", "#9ecae1", "#969696", "#cb181d"])
axes[1].set(ylabel="liver in ml", title="SmallVolume, 4 HU")
place = np.arange(len(bars))
axes[2].bar(place - 0.2, [random for random, _ in bars.values()], 0.38, color="#969696", label="random")
axes[2].bar(place + 0.2, [attacked for _, attacked in bars.values()], 0.38, color="#cb181d", label="attack")
axes[2].axhline(clean_dice, color="#3182bd", linewidth=1, label="clean")
axes[2].set_xticks(place, list(bars), fontsize=8, rotation=10)
axes[2].set(ylabel="mean Dice over the organs", ylim=(0, 1.25))
axes[2].legend(fontsize=8, ncol=3, loc="upper right")
figure.tight_layout()
plt.show()

(cup_random, cup), (_, hill) = bars["Cupping + steepest ascent"], bars["Cupping + HillClimb"]
display(
    Markdown(
        f"""**Conclusion.** Cupping of at most 40 HU has two parameters. Following the gradient leaves a mean Dice
of {cup:.2f} of {clean_dice:.2f}; a random cupping leaves {cup_random:.2f}, and the hill climb with {queries}
questions {hill:.2f}. SmallVolume within 4 HU brings the liver from {volumes["clean"]:.0f} ml to
{volumes["attacked"]:.0f} ml (random change: {volumes["random"]:.0f} ml; label: {volumes["label"]:.0f} ml). The same
hill climb over noise, a space of {image[0].numel()} numbers, leaves {bars["noise 4 HU + HillClimb"][1]:.2f}. The
purifier that was made for cupping leaves {unaware:.2f} where the attacker does not know it and {aware_dice:.2f}
where it does; on the clean scan it has {guarded_clean:.2f}."""
    )
)
