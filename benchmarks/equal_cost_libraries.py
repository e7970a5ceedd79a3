# SPDX-License-Identifier: Apache-2.0
"""Other libraries on the networks of docs/equal_cost.md, each with the budget and the passes of ours.

They know neither HU nor windows: they are given a network on values from 0 to 1 that does not see what a window clips,
as in ``benchmarks.peer_strength``. Score and label are those of the other contestants.
"""

from __future__ import annotations

import torch

from benchmarks.equal_cost_attacks import DISPLAY, FIELD, VOXELS, WARP, Contestant
from benchmarks.peers import PeerAttack, Problem, loaded_attacks
from benchmarks.peers.behind_window import BehindWindow
from benchmarks.peers.problem import LOSSES
from benchmarks.steps_to_dice import Case
from benchmarks.strength import mean_dice
from monai_adversarial.attacks import BiasFieldAttack, ElasticAttack
from monai_adversarial.metrics.dice import hard_prediction
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import spacing_of

__all__ = ["Job", "library_contestants"]

#: another library's PGD finds the voxels of torchattacks' (tests/benchmarks/test_peers.py)
EQUAL_VOXELS = ("ART PGD", "foolbox PGD", "adv_lib PGD", "secml-torch PGD")


class Job:
    """One case as a library is given it.

    Args:
        model: what is attacked, whole volumes at a time.
        case: image and label; the clean prediction stands in for a label that there is not.
        budget: HU.
        group: what may change. Bias fields of a network without a window have one in which the scan is shown.
    """

    def __init__(self, model: AttackedModel, case: Case, budget: float, group: str) -> None:
        image, label = case
        plain = as_plain(image).float()
        if model.intensity is not None and model.image_units == "HU":
            plain = model.intensity(plain)
        self.model = model
        spacing = spacing_of(image, required=group != VOXELS)  # control points and deformations are in mm
        self.spacing = [] if spacing is None else spacing.flatten()[:3].tolist()
        self.network = BehindWindow(model.network, plain, *self._range(plain, group))
        with torch.no_grad():
            logits = model.network(plain)
        self.label = (hard_prediction(logits, "softmax") if label is None else as_plain(label)).long()
        self.clean_dice = mean_dice(model.network, plain, self.label)
        in_hu = 1.0 if model.intensity is None else float(torch.as_tensor(model.intensity.scale))
        self.epsilon = budget * in_hu / (self.network.high - self.network.low)

    def _range(self, image: torch.Tensor, group: str) -> tuple[float, float]:
        window = self.model.intensity
        if window is not None and window.low is not None and window.high is not None:
            return float(torch.as_tensor(window.low)), float(torch.as_tensor(window.high))
        # just beyond the ends, so that no voxel counts as clipped
        return DISPLAY if group == FIELD else (float(image.min()) - 1.0, float(image.max()) + 1.0)

    def problem(self, loss: str = "cross_entropy") -> Problem:
        """For an adapter."""
        return Problem(self.network, self.network.clean, self.label, self.epsilon, loss)

    def between(self, mm: float) -> list[int]:
        """Voxels between control points that are so far apart, along each axis."""
        return [max(2, round(mm / spacing)) for spacing in self.spacing]


def _noise(attack: PeerAttack, loss: str) -> Contestant:
    def run(model: AttackedModel, case: Case, budget: float, passes: int, seed: int) -> tuple[float, float]:
        job = Job(model, case, budget, VOXELS)
        torch.manual_seed(seed)
        found = attack(job.problem(loss), passes)
        change = float((found - job.network.clean).abs().max())
        if change > job.epsilon * 1.001 + 1e-6:
            raise RuntimeError(f"{attack.name} left its budget: {change:.6f} instead of {job.epsilon:.6f}.")
        return job.clean_dice, mean_dice(model.network, job.network.seen(found), job.label)

    return Contestant(f"{attack.name}, {LOSSES[loss]}", VOXELS, False, run)


def _advchain_bias_field(
    model: AttackedModel, case: Case, budget: float, passes: int, seed: int
) -> tuple[float, float]:
    from benchmarks.peers.advchain import bias_field

    job, ours = Job(model, case, budget, FIELD), BiasFieldAttack().perturbation
    torch.manual_seed(seed)
    # Its gains lie as far below 1 as above: as far below as ours, which keeps it inside our budget.
    gain = 1 - 1 / (1 + ours.max_gain)
    found = bias_field(job.problem(), passes, gain, job.between(ours.control_spacing))
    return job.clean_dice, mean_dice(model.network, job.network.seen(found), job.label)


def _advchain_morph(model: AttackedModel, case: Case, budget: float, passes: int, seed: int) -> tuple[float, float]:
    from benchmarks.peers.advchain import morph

    job, ours = Job(model, case, budget, WARP), ElasticAttack().perturbation
    apart = job.between(ours.control_spacing)
    controls = [max(2, -(-side // step)) for side, step in zip(job.label.shape[2:], apart, strict=True)]
    torch.manual_seed(seed)
    found, label = morph(job.problem(), passes, controls, job.spacing, ours.max_displacement)
    low, high = job.network.low, job.network.high
    return job.clean_dice, mean_dice(model.network, low + found * (high - low), label)


def library_contestants() -> tuple[list[Contestant], list[str]]:
    """The attacks of the libraries that are here, and a line for each library that is not."""
    found, absent = loaded_attacks("constant", "adaptive", "smooth", "morph")
    made = []
    for _, attack in found:
        if attack.kind in ("constant", "adaptive") and attack.name not in EQUAL_VOXELS:
            made += [_noise(attack, loss) for loss in attack.compared]
        elif attack.kind == "smooth":
            made.append(Contestant(attack.name, FIELD, False, _advchain_bias_field))
        elif attack.kind == "morph":
            made.append(Contestant(attack.name, WARP, False, _advchain_morph))
    return made, absent
