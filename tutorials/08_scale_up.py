# %% [markdown]
# SPDX-License-Identifier: Apache-2.0
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless required by
# applicable law or agreed to in writing, software distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific language
# governing permissions and limitations under the License.
#
# # Scale up: processes, precision, compilation and memory
#
# An attack costs some forward and backward passes per step, on whole volumes. You will see what makes it cheaper, and
# what does not change its result:
#
# - arithmetic: bfloat16 where the hardware computes in it, float32 for scores,
# - `compile_network=True`, and when it pays,
# - memory: window by window instead of the whole volume, with the figures of processes of their own,
# - a stream of volumes that never lie in memory together,
# - many processes with `torchrun` that share nothing but files.
#
# Everything here runs on two CPU cores. On GPUs the commands are the same, one process for each GPU.
#
# `MONAI_ADVERSARIAL_TUTORIAL_FAST=1` in the environment makes everything small. The output of the data cell says in
# which mode the stored outputs were made. Times are those of one machine that did other work, too.

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
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import torch
from IPython.display import Markdown, display
from monai.config import print_config
from monai.data import DataLoader, Dataset
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from monai.utils import set_determinism

from monai_adversarial.attacks import PGD
from monai_adversarial.data.example import example_case
from monai_adversarial.models import AttackedModel

print_config()

# %% [markdown]
# ## Setup data directory
#
# Small cases with networks that need no training: this tutorial is about cost, not about robustness. A warning below
# says that one was never trained, as it should be.

# %%
fast = os.environ.get("MONAI_ADVERSARIAL_TUTORIAL_FAST", "0") == "1"
print("mode:", "fast" if fast else "full")
set_determinism(seed=0)
plt.rcParams.update({"figure.dpi": 70})
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
root_dir = Path(tempfile.mkdtemp())
scans_dir = root_dir / "scans"
for kind in ("images", "labels"):
    (scans_dir / kind).mkdir(parents=True)
case_count = 2 if fast else 3
for seed in range(case_count):
    _, image, label = example_case(seed=seed)
    for kind, volume, dtype in (("images", image, np.int16), ("labels", label, np.uint8)):
        file = nib.Nifti1Image(volume[0, 0].numpy().astype(dtype), image.affine.numpy())
        nib.save(file, scans_dir / kind / f"case_{seed}.nii.gz")
print(case_count, "cases of", tuple(image.shape[2:]), "voxels")

# %% [markdown]
# ## Arithmetic
#
# `precision` is that of the attack's steps. `"auto"` is bfloat16 where the hardware computes in it, and float32
# elsewhere. Scores are computed in `scoring_precision`, float32 by default: what is reported is the deployed network.

# %%
unet = UNet(spatial_dims=3, in_channels=1, out_channels=4, channels=(8, 16, 32), strides=(2, 2)).to(device).eval()
side = 32 if fast else 64
volume = torch.rand(1, 1, side, side, side, device=device)
inferer = SlidingWindowInferer((32, 32, 32), sw_batch_size=4, overlap=0.25, mode="gaussian")
steps = 2 if fast else 5


def timed(model, repeats=2):
    """Seconds of a step (the fastest run) and the result."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = PGD(0.02, steps=steps)(model, volume)
        times.append((time.perf_counter() - began) / steps)
    return min(times), result


seconds, kept = {}, {}
for precision in ("float32", "bfloat16", "auto"):
    seconds[precision], result = timed(AttackedModel(unet, inferer, precision=precision))
    kept[precision] = float(result.adversarial_dice)
    print(f"{precision:9} {seconds[precision] * 1000:7.0f} ms per step, Dice kept {kept[precision]:.3f}")

# %% [markdown]
# ## Compilation
#
# `compile_network=True` compiles the network on the first call and keeps it. The first call pays for it, so it is for
# long runs. It is tried here in the full mode only; it needs a C++ compiler on CPUs.

# %%
compiled = None
if fast or shutil.which("g++") is None:
    print("skipped: fast mode, or no C++ compiler")
else:
    model = AttackedModel(unet, inferer, precision="float32", compile_network=True)
    first, _ = timed(model, repeats=1)
    compiled, result = timed(model)
    difference = abs(float(result.adversarial_dice) - kept["float32"])
    print(f"first call {first * steps:.1f} s, then {compiled * 1000:.0f} ms per step (not compiled: ", end="")
    print(f"{seconds['float32'] * 1000:.0f} ms); Dice differs by {difference:.4f}")

# %% [markdown]
# ## Memory
#
# Each figure comes from a process of its own: the largest resident memory that the call adds (Linux). "At once" gives
# the network the whole volume and keeps its graph, "window by window" is the default for a sliding window. Compare how
# they grow. A network without windows whose graph does not fit is recomputed piece by piece
# (`checkpoint_layers=None`, the default); that is left out here.

# %%
script = root_dir / "memory.py"
script.write_text(
    """
import sys, torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from monai_adversarial.attacks import PGD
from monai_adversarial.models import AttackedModel


def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


side, windows = int(sys.argv[1]), sys.argv[2] == "windows"
torch.manual_seed(0)
network = UNet(spatial_dims=3, in_channels=1, out_channels=4, channels=(8, 16, 32), strides=(2, 2)).eval()
inferer = SlidingWindowInferer((32, 32, 32), 1, 0.25) if windows else None
model = AttackedModel(network, inferer, precision="float32", checkpoint_layers=False)
PGD(0.02, steps=1)(model, torch.rand(1, 1, 32, 32, 32))  # what only the first call needs
image = torch.rand(1, 1, side, side, side)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew
before = status("VmRSS")
PGD(0.02, steps=1)(model, image)
print(status("VmHWM") - before)
"""
)
sides = [64] if fast else [64, 80, 96]
memory = {"windows": [], "whole": []}
for size in sides:
    for kind, found in memory.items():
        run = subprocess.run([sys.executable, str(script), str(size), kind], capture_output=True, text=True, check=True)
        found.append(float(run.stdout))
    print(f"{size}^3 voxels: {memory['windows'][-1]:6.0f} MB window by window, {memory['whole'][-1]:6.0f} MB at once")

# %% [markdown]
# ## A stream of volumes
#
# Cases need not lie in memory together: a `Dataset` loads one when it is asked, and what an attack leaves can be
# written before the next one comes. Random numbers belong to the case, so order and batch size change nothing.

# %%
load = Compose([LoadImaged(keys=["image", "label"]), EnsureChannelFirstd(keys=["image", "label"])])
entries = [
    {kind[:-1]: str(scans_dir / kind / f"case_{seed}.nii.gz") for kind in ("images", "labels")}
    for seed in range(case_count)
]
model, _, _ = example_case()
streamed = []
for batch in DataLoader(Dataset(entries, load), batch_size=1):
    streamed.append(float(PGD(8, units="HU", steps=3)(model, batch["image"], batch["label"]).adversarial_dice))
together = next(iter(DataLoader(Dataset(entries[::-1], load), batch_size=case_count)))
batched = PGD(8, units="HU", steps=3)(model, together["image"], together["label"]).adversarial_dice.tolist()[::-1]
print("one by one:         ", [round(dice, 6) for dice in streamed])
print("one batch, reversed:", [round(dice, 6) for dice in batched])

# %% [markdown]
# ## Many processes
#
# An audit under `torchrun` splits the cases; every process writes whole records of its own, and the first one reports.
# What is recorded is not run again, so that a run that was killed goes on. Here are two processes on this machine;
# `--nnodes 2 --nproc-per-node 4` is the same on eight GPUs.

# %%
program = root_dir / "audit_example.py"
program.write_text(
    """
import sys
from monai_adversarial.audit import audit
from monai_adversarial.data.example import example_case

plan = {
    "name": "scale",
    "rows": {
        "pgd": {
            "title": "PGD",
            "family": "gradient",
            "goal": "a wrong segmentation",
            "knowledge": "white box",
            "needs": "gradients",
            "attack": {"_target_": "monai_adversarial.attacks.PGD", "steps": 3, "epsilon": 8, "units": "HU"},
        }
    },
}
model, _, _ = example_case()
audit(model, sys.argv[1], plan, sys.argv[2], pictures=False, progress=False)
"""
)
environment = {**os.environ, "OMP_NUM_THREADS": "1"}
audits = {}
for processes in (1, 2):
    out = root_dir / f"audit_{processes}"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *launcher, str(program), str(scans_dir), str(out)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    audits[processes] = json.loads((out / "audit.json").read_text())
    attacked = [case for case in audits[processes]["cases"] if case["row"] == "pgd"]
    dice = {case["case"]: round(case["mean"]["adversarial"]["dice"], 4) for case in attacked}
    print(f"{processes} process(es), {time.perf_counter() - began:.0f} s:", dice)
same = all(
    first["mean"] == second["mean"] for first, second in zip(*(one["cases"] for one in audits.values()), strict=True)
)
print("the same figures:", same)

# %% [markdown]
# ## What scales how

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 4))
bars = {**seconds, **({} if compiled is None else {"compiled": compiled})}
axes[0].bar(list(bars), [1000 * one for one in bars.values()], color="#6baed6")
axes[0].set(ylabel="ms per step", title=f"PGD on {side}$^3$ voxels, {device.type}")
for kind, label in (("whole", "whole volume at once"), ("windows", "window by window")):
    axes[1].plot([size**3 / 1e6 for size in sides], memory[kind], "o-", label=label)
axes[1].set(xlabel="million voxels", ylabel="memory that the call adds, MB", ylim=(0, None), title="memory, float32")
axes[1].legend()
figure.tight_layout()
plt.show()

spread = max(abs(a - b) for a, b in zip(streamed, batched, strict=True))
text = f"""**Conclusion.** On this machine a step takes {seconds["float32"] * 1000:.0f} ms in float32 and
{seconds["bfloat16"] * 1000:.0f} ms in bfloat16; "auto" takes {seconds["auto"] * 1000:.0f} ms. At {sides[-1]}³
voxels the attack window by window adds {memory["windows"][-1]:.0f} MB, and {memory["whole"][-1]:.0f} MB where the
network gets the volume at once. One by one or in a batch of the reverse order, the Dice of a case differs by at
most {spread:.1g}. One and two processes report {"the same" if same else "different"} figures for {case_count}
cases."""
if compiled is not None:
    text += f""" The compiled network takes {compiled * 1000:.0f} ms per step after a first call of
{first * steps:.0f} s."""
display(Markdown(text))

# %% [markdown]
# ## Cleanup data directory

# %%
shutil.rmtree(root_dir)
