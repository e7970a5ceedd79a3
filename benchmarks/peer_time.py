# SPDX-License-Identifier: Apache-2.0
"""Time of a step and of a whole call of other libraries and of ours, at the same job, in the same rounds.

The job: L-infinity PGD on the 3D U-Net of the other rows, same image, label, radius and number of forward + backward
passes, sign steps of a quarter of the radius on the mean cross-entropy over voxels. The network is given as it is after
loading, with trainable weights; a library whose backward pass differentiates them, too, has a second row with the
weights frozen by hand. A step is the time between two forward passes on an image that asks for a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from benchmarks.networks import input_gradient, unet, volume
from benchmarks.peers import Peer, PeerAttack, Problem, loaded_attacks
from benchmarks.peers.problem import CountedNetwork
from benchmarks.settings import Settings
from benchmarks.step_time import SPACING
from benchmarks.tables import Column, Table
from benchmarks.timing import Job, StepClock, Stopwatch, run_rounds, timed
from monai_adversarial.attacks import PGD, BiasFieldAttack, ElasticAttack
from monai_adversarial.attacks.attack import Attack
from monai_adversarial.models import AttackedModel

__all__ = ["CallJob", "our_call", "peer_call", "tables"]

EPSILON = 0.02
PASSES = 6
SLOW_PASSES = 3  # of attacks that deform the volume many times in each step
OURS = "monai_adversarial"


@dataclass
class CallJob(Job):
    """Steps of a call, and the call itself.

    Args:
        passes: forward + backward passes of a call.
        library, note: for the table.
        calls: (wall, CPU) seconds of each call.
    """

    passes: int = PASSES
    library: str = OURS
    note: str = ""
    calls: list[tuple[float, float]] = field(default_factory=list)


def our_call(name: str, attack: Attack, model: AttackedModel, problem: Problem) -> CallJob:
    """A call of an attack of ours."""
    clock = StepClock()
    clock.attach(attack)
    job = CallJob(name, lambda: [], passes=attack.steps)

    def call() -> list[tuple[float, float]]:
        attack(model, problem.image, problem.label, spacing=SPACING)
        return clock.steps()

    def run() -> list[tuple[float, float]]:
        watch = Stopwatch()
        steps = call()
        job.calls.append(watch.seconds())
        return steps

    job.run, job.warm_up = run, call
    return job


def peer_call(peer: Peer, attack: PeerAttack, problem: Problem, passes: int, frozen: bool = False) -> CallJob:
    """A call of an attack of another library, the weights trainable or frozen."""
    counted = CountedNetwork(problem.network)
    name = f"{attack.name}{', weights frozen by hand' * frozen}"
    job = CallJob(name, lambda: [], passes=passes, library=f"{peer.name} {peer.version()}", note=attack.note)

    def call(passes: int) -> list[tuple[float, float]]:
        counted.reset()
        counted.requires_grad_(not frozen)
        attack(replace(problem, network=counted), passes)
        for weight in counted.parameters():
            weight.grad = None
        return counted.steps()

    def run() -> list[tuple[float, float]]:
        watch = Stopwatch()
        steps = call(passes)
        job.calls.append(watch.seconds())
        return steps

    job.run, job.warm_up = run, lambda: call(2)  # ALMA-prox divides by the number of steps less one
    return job


def _ours(problem: Problem) -> list[CallJob]:
    automatic, exact = AttackedModel(problem.network), AttackedModel(problem.network, precision="float32")
    same = {"step_size": EPSILON / 4, "objective": "cross_entropy", "random_start": False, "steps": PASSES}
    bias = BiasFieldAttack(0.3, domain="image", steps=SLOW_PASSES, objective="dice_ce")
    return [
        our_call("ours, PGD default", PGD(EPSILON, steps=PASSES), automatic, problem),
        our_call("ours, the same job", PGD(EPSILON, **same), automatic, problem),
        our_call("ours, the same job in float32", PGD(EPSILON, **same), exact, problem),
        our_call("ours, bias field", bias, automatic, problem),
        our_call("ours, diffeomorphic elastic", ElasticAttack(steps=SLOW_PASSES), automatic, problem),
    ]


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """One row per attack: step and whole call, divided by the floor."""
    network = unet().to(settings.device).requires_grad_(True)
    image, label = volume((settings.size,) * 3, settings.device)
    problem = Problem(network, image, label, EPSILON)
    frozen = unet().to(settings.device)
    floor = Job("floor", timed(lambda: input_gradient(frozen, image, label), repeats=2))
    found, absent = loaded_attacks("constant", "adaptive", "minimal", "smooth", "morph")
    slow = ("smooth", "morph")
    calls = _ours(problem)
    for peer, one in found:
        passes = SLOW_PASSES if one.kind in slow else PASSES
        calls.append(peer_call(peer, one, problem, passes))
        if one.differentiates_weights and one.kind not in slow:
            calls.append(peer_call(peer, one, problem, passes, frozen=True))
    run_rounds([floor, *calls], settings.few_rounds, say)
    table = Table(
        "peers",
        f"The same job in every library: {PASSES} forward + backward passes ({SLOW_PASSES} of a bias field or a "
        f"deformation) on a 3D U-Net and {settings.size}^3 voxels, divided by the floor (one forward + backward to the "
        f"input, frozen, float32: {floor.cpu():.3f} CPU s, {floor.wall():.3f} s); medians of {settings.few_rounds} "
        "interleaved rounds.",
        (
            *(Column("attack"), Column("step, CPU ratio", 2), Column("its quartiles"), Column("step, wall ratio", 2)),
            *(Column("whole call, CPU ratio", 2), Column("library"), Column("what was adapted")),
        ),
        notes=[f"Not run: {line}" for line in absent],
    )
    for job in calls:
        whole = Job(job.name, job.run, samples=[(wall / job.passes, cpu / job.passes) for wall, cpu in job.calls])
        ratio, spread, wall, *_ = job.cells(floor)
        table.add(job.name, ratio, spread, wall, whole.cpu() / floor.cpu(), job.library, job.note)
    return [table]
