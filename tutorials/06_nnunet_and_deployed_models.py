# %% [markdown]
# SPDX-License-Identifier: Apache-2.0
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless required by
# applicable law or agreed to in writing, software distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific language
# governing permissions and limitations under the License.
#
# # Attack an nnU-Net and a deployed model
#
# What is deployed is seldom a MONAI network in a Python script. It is a folder that nnU-Net left, a TorchScript or
# ONNX file, or a server. You will attack all of them:
#
# - an nnU-Net v2 results folder, with its own preprocessing, windows and postprocessing, and with gradients,
# - the same U-Net as TorchScript (gradients), as ONNX (questions only) and behind HTTP (questions only),
# - and see that the same questions get the same answers, whatever the container.
#
# Readers never guess in silence: they list what they read as *facts* and what they still must be told as *missing*.
#
# The second part needs `onnx`, `onnxruntime`, `onnxscript` and `tritonclient[http]`, the first `nnunetv2`. A section
# whose package is absent is skipped and says so.
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
import contextlib
import importlib.util
import io
import json
import logging
import os
import shutil
import tempfile
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import torch
from IPython.display import Markdown, display
from monai.bundle import ConfigParser
from monai.config import print_config
from monai.data import list_data_collate
from monai.losses import DiceCELoss
from monai.utils import set_determinism

import monai_adversarial
from monai_adversarial.attacks import PGD, SquareAttack
from monai_adversarial.audit.targets.exported import read_exported
from monai_adversarial.audit.targets.served import read_served
from monai_adversarial.data import CLASS_NAMES, generate_ct_phantom
from monai_adversarial.metrics import mean_foreground_dice
from monai_adversarial.models import AttackedModel, predict

print_config()

# %% [markdown]
# ## Setup data directory

# %%
fast = os.environ.get("MONAI_ADVERSARIAL_TUTORIAL_FAST", "0") == "1"
print("mode:", "fast" if fast else "full")
set_determinism(seed=0)
plt.rcParams.update({"figure.dpi": 70, "image.cmap": "gray"})
root_dir = Path(tempfile.mkdtemp())


def present(*packages):
    """Whether all of them are installed; says which are not."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        print("skipped: not installed:", ", ".join(absent))
    return not absent


def save(voxels, affine, name):
    """Write a volume as NIfTI."""
    path = root_dir / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)


def attacked_model(parts):
    """The model under attack, from what a reader found."""
    return AttackedModel.from_parts(
        parts.network, parts.inferer, parts.preprocessing, parts.postprocessing, image_key=parts.image_key, **parts.told
    )


# %% [markdown]
# ## Part 1: nnU-Net
#
# `read_nnunet` takes the folder `TRAINER__PLANS__CONFIGURATION` below `nnUNet_results`: `plans.json`, `dataset.json`
# and the folds. Name yours in `MONAI_ADVERSARIAL_TUTORIAL_NNUNET`, with an image in
# `MONAI_ADVERSARIAL_TUTORIAL_NNUNET_IMAGE`. Without it a stand-in is trained for seconds with nnU-Net's own trainer,
# preprocessing and checkpoints; it finds "organs" and "spine" in small phantoms. The next cell makes it and is not
# needed for your own.

# %%
results_dir = os.environ.get("MONAI_ADVERSARIAL_TUTORIAL_NNUNET")
nnunet_image, nnunet_label = os.environ.get("MONAI_ADVERSARIAL_TUTORIAL_NNUNET_IMAGE"), None
has_nnunet = present("nnunetv2")


def small_case(seed):
    """A coarse phantom with the labels 1 (organs) and 2 (spine)."""
    image, label, affine = generate_ct_phantom(seed, (36, 40, 22), (9.5, 8.6, 11.0), oblique=False)
    classes = np.where(label == CLASS_NAMES.index("spine"), 2, label > 0).astype(np.uint8)
    return save(image, affine, f"nnunet_{seed}_image"), save(classes, affine, f"nnunet_{seed}_label")


def stand_in(steps):
    """A results folder as nnU-Net's trainer writes it."""
    os.environ["nnUNet_raw"] = str(root_dir / "raw")
    os.environ["nnUNet_results"], os.environ["nnUNet_preprocessed"] = str(root_dir / "results"), str(root_dir / "ready")
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    functions = {
        f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in ("data", "seg", "probabilities")
    } | {
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
    }
    network = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [8, 16],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * 2,
            "strides": [[1, 1, 1], [2, 2, 2]],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    plans = {
        "dataset_name": "Dataset901_Phantom",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 40.0, "std": 70.0, "percentile_00_5": -160.0, "percentile_99_5": 240.0}
        },
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [16, 32, 32],
                "spacing": [11.0, 9.0, 9.0],
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "batch_dice": False,
                "architecture": network,
                **functions,
            }
        },
    }
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "organs": 1, "spine": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    ready = root_dir / "ready" / "Dataset901_Phantom" / "nnUNetPlans_3d_fullres"
    ready.mkdir(parents=True)
    (ready / "case.b2nd").touch()  # nnU-Net looks here for the kind of its data
    folder = root_dir / "results" / "Dataset901_Phantom" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    trainer = nnUNetTrainer({**plans, "continue_training": False}, "3d_fullres", 0, dataset, device=torch.device("cpu"))
    trainer.initialize()
    trainer.inference_allowed_mirroring_axes = (0, 1, 2)
    settings = trainer.configuration_manager
    batches = []
    for seed in range(2):
        image, label = small_case(seed)
        data, seg, _ = settings.preprocessor_class(verbose=False).run_case(
            [image], label, trainer.plans_manager, settings, dataset
        )
        batches.append((torch.from_numpy(data)[None], torch.from_numpy(seg.astype(np.int64)).clamp_min(0)))
    optimizer = torch.optim.Adam(trainer.network.parameters(), lr=0.01)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True, weight=torch.tensor([1.0, 2.0, 6.0]))
    # Windows of the size that inference uses: instance norm has other statistics on whole cases.
    patch = settings.patch_size
    for step in range(steps):
        image, classes = batches[step % 2]
        starts = [int(torch.randint(0, size - n + 1, ())) for size, n in zip(classes.shape[1:], patch, strict=True)]
        cut = (..., *(slice(first, first + n) for first, n in zip(starts, patch, strict=True)))
        loss = loss_function(trainer.network(image[cut])[0], classes[None][cut])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trainer.save_checkpoint(str(folder / "fold_0" / "checkpoint_final.pth"))
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


if has_nnunet and results_dir is None:
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(invalid="ignore"):
        results_dir = stand_in(80 if fast else 200)
        nnunet_image, nnunet_label = small_case(1000)

# %% [markdown]
# Nothing is trained again or converted. The preprocessing is nnU-Net's own; `CTNormalization` is one map for all
# images, so budgets are in HU.

# %%
nnunet_dice = None
if has_nnunet:
    from monai_adversarial.audit.targets.nnunet import read_nnunet

    nnunet = read_nnunet(results_dir, device="cpu")
    print(*nnunet.facts, sep="\n")
    files = {"image": nnunet_image} | ({} if nnunet_label is None else {"label": nnunet_label})
    item = list_data_collate([nnunet.preprocessing(files)])
    result = PGD(16, units="HU", steps=2 if fast else 10)(attacked_model(nnunet), item["image"], item.get("label"))
    print()
    print(result)
    reference = item["label"] if "label" in item else result.clean_prediction
    random_prediction = predict(result.model, result.random_control()[0])
    by_chance = float(mean_foreground_dice(random_prediction, reference, 3, "softmax"))
    nnunet_dice = {"clean": float(result.clean_dice), "random": by_chance, "PGD": float(result.adversarial_dice)}
    print(f"random change of 16 HU: {by_chance:.3f}")

# %% [markdown]
# ## Part 2: one network in four containers
#
# The U-Net of the repository's bundle is exported. An export holds a network and nothing of its pipeline: window,
# orientation and size of the sliding windows must be told.

# %%
bundle_dir = Path(monai_adversarial.__file__).parents[1] / "bundles" / "ct_abdomen_unet"
config = ConfigParser()
config.read_config(bundle_dir / "configs" / "inference.yaml")
network = config.get_parsed_content("network_def")
network.load_state_dict(torch.load(bundle_dir / "models" / "model.pt", map_location="cpu", weights_only=True))
network.eval()

side, depth = (48, 32) if fast else (64, 48)
voxels, classes, affine = generate_ct_phantom(1003, (side, side, depth), (3.2, 3.2, 4.0), oblique=False)
scan, organs = save(voxels, affine, "scan"), save(classes, affine, "organs")
window_size = (side, side, depth)
told = {
    "window": (-160, 240),
    "orientation": "RAS",
    "roi_size": window_size,
    "class_names": list(CLASS_NAMES),
}

example = torch.zeros(1, 1, *window_size)
torchscript_file = root_dir / "model.ts"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.jit.trace(network, example).save(str(torchscript_file))
targets = {"TorchScript": read_exported(torchscript_file, told)}
print(*targets["TorchScript"].facts, *targets["TorchScript"].missing, sep="\n")

# %% [markdown]
# TorchScript keeps gradients. What was not told is a fact marked `default`, and what would matter and is not known
# would be in `missing`.

# %%
has_onnx = present("onnx", "onnxruntime", "onnxscript")
onnx_file = root_dir / "model.onnx"
if has_onnx:
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (example,), dynamo=True, verbose=False).save(str(onnx_file))
    targets["ONNX"] = read_exported(onnx_file, told)
    print("ONNX has gradients:", targets["ONNX"].differentiable)

# %% [markdown]
# **A server.** Triton and others speak KServe's protocol, version 2. The next cell is a small server of that kind on
# this machine; with a real one, all you need is its URL and the model's name.


# %%
class Handler(BaseHTTPRequestHandler):
    """The three answers that a client needs: server, model, inference (tensors as binary FP32)."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, content, header_length=None):
        self.send_response(200)
        if header_length is not None:
            self.send_header("Inference-Header-Content-Length", str(header_length))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        if self.path.rstrip("/") == "/v2":
            answer = {"name": "tutorial", "version": "1", "extensions": ["binary_tensor_data"]}
        else:
            shape = [1, 1, *window_size]
            answer = {
                "name": "abdomen",
                "platform": "tutorial",
                "inputs": [{"name": "image", "datatype": "FP32", "shape": shape}],
                "outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, len(CLASS_NAMES), *window_size]}],
            }
        self.reply(json.dumps(answer).encode())

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        length = int(self.headers["Inference-Header-Content-Length"])
        shape = json.loads(content[:length])["inputs"][0]["shape"]
        with torch.no_grad():
            image = torch.frombuffer(bytearray(content[length:]), dtype=torch.float32).view(*shape)
            logits = np.ascontiguousarray(network(image).numpy())
        entry = {
            "name": "logits",
            "datatype": "FP32",
            "shape": list(logits.shape),
            "parameters": {"binary_data_size": logits.nbytes},
        }
        head = json.dumps({"model_name": "abdomen", "outputs": [entry]}).encode()
        self.reply(head + logits.tobytes(), len(head))


server = None
if present("tritonclient", "geventhttpclient"):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    targets["HTTP"] = read_served(f"http://127.0.0.1:{server.server_port}", "abdomen", told)
    print("a served model has gradients:", targets["HTTP"].differentiable)

# %% [markdown]
# ## The same questions to all
#
# `SquareAttack` asks about noise of at most 8 HU in cubes and keeps what makes the answer worse: no gradients, the
# Dice of the answer is enough. Where a target has gradients, PGD with a few steps stands beside it. `queries` are
# counted per sample.

# %%
queries, steps = (6, 2) if fast else (20, 5)
rows = {}
for name, parts in targets.items():
    model = attacked_model(parts)
    item = list_data_collate([parts.preprocessing({parts.image_key: scan})])
    # The label goes through the same orientation; nothing is resampled here.
    turned = nib.as_closest_canonical(nib.load(organs)).get_fdata()
    label = torch.from_numpy(turned)[None, None].long()
    image = item[parts.image_key]
    by_queries = SquareAttack(8, units="HU", queries=queries)(model, image, label)
    rows[name] = {"clean": float(by_queries.clean_dice), "square attack": float(by_queries.adversarial_dice)}
    print(f"{name}: {by_queries.queries} queries, Dice {rows[name]['clean']:.3f} -> {rows[name]['square attack']:.3f}")
    if parts.differentiable:
        by_gradient = PGD(8, units="HU", steps=steps)(model, image, label)
        rows[name]["PGD"] = float(by_gradient.adversarial_dice)
        print(f"{name}: PGD with {steps} steps, Dice -> {rows[name]['PGD']:.3f}")
if server is not None:
    server.shutdown()

# %% [markdown]
# ## What happened

# %%
figure, axes = plt.subplots(1, 2, figsize=(13, 4), width_ratios=[1, 2])
if nnunet_dice is not None:
    axes[0].bar(list(nnunet_dice), list(nnunet_dice.values()), color=["#9ecae1", "#969696", "#cb181d"])
axes[0].set(ylim=(0, 1), ylabel="mean Dice", title="nnU-Net, 16 HU")
place = np.arange(len(rows))
for offset, column, color in ((-0.27, "clean", "#9ecae1"), (0, "square attack", "#fb6a4a"), (0.27, "PGD", "#cb181d")):
    axes[1].bar(place + offset, [row.get(column, np.nan) for row in rows.values()], 0.26, color=color, label=column)
axes[1].set_xticks(place, list(rows))
axes[1].set(ylim=(0, 1.2), title="one network in several containers, 8 HU")
axes[1].legend(ncols=3, loc="upper right")
figure.tight_layout()
display(figure)  # nnunetv2 switches matplotlib to a backend without windows, so that plt.show() would show nothing
plt.close(figure)

answers = [row["square attack"] for row in rows.values()]
spread, queried = max(answers) - min(answers), answers[0]
clean_dice, by_pgd = rows["TorchScript"]["clean"], rows["TorchScript"]["PGD"]
text = f"""**Conclusion.** {len(rows)} containers of one network ({", ".join(rows)}) answered the same {queries}
questions: their Dice under the square attack lies within {spread:.4f} of each other, at {queried:.2f} of
{clean_dice:.2f}. Where gradients are there, {steps} steps of PGD leave {by_pgd:.2f}: a target without gradients
looks different by {queried - by_pgd:+.2f}, and is the same network."""
if nnunet_dice is not None:
    text += f""" The nnU-Net, read from its folder, went from {nnunet_dice["clean"]:.2f} to {nnunet_dice["PGD"]:.2f}
within 16 HU; a random change of that size left {nnunet_dice["random"]:.2f}."""
display(Markdown(text))

# %% [markdown]
# ## Cleanup data directory

# %%
for parts in targets.values():
    parts.resources.close()
shutil.rmtree(root_dir)
