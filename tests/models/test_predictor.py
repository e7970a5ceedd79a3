# SPDX-License-Identifier: Apache-2.0
"""The attacked function: which output is attacked, networks that are freed, checkpointing, NaN."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from typing import Any

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import DynUNet
from torch import nn
from torch.utils.checkpoint import checkpoint

from monai_adversarial.attacks import PGD, ElasticAttack
from monai_adversarial.models import AttackedModel
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils import layer_checkpoints
from tests.helpers import random_image, random_label, tiny_segmentation_network
from tests.peak_bytes import PeakBytes

IMAGE = random_image((2, 1, 8, 8, 8))
LABEL = random_label((2, 1, 8, 8, 8))


def logits_of(network: Any, **options: Any) -> tuple[torch.Tensor, AttackedModel]:
    model = AttackedModel(network, precision="float32", **options)
    return Predictor(model, IMAGE).read_clean_logits(IMAGE), model


def test_the_one_output_on_the_images_grid_is_attacked_and_it_is_said() -> None:
    inner = tiny_segmentation_network()

    def network(x: torch.Tensor) -> Any:
        y = inner(x)
        return [y[..., ::2], y, None, y.mean()]

    logits, model = logits_of(network)
    assert torch.equal(logits, inner(IMAGE))
    assert model.facts == ("output 1 of the network's 4 is attacked: the one on the image's grid",)
    Predictor(model, IMAGE).read_clean(IMAGE)
    assert len(model.facts) == 1


def test_a_stack_of_levels_is_attacked_at_full_resolution() -> None:
    torch.manual_seed(0)
    network = DynUNet(3, 1, 2, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 8), deep_supervision=True, deep_supr_num=1)
    trained = network.train()(IMAGE)
    assert trained.ndim == 6
    logits, model = logits_of(lambda x: network.train()(x))
    torch.testing.assert_close(logits, trained[:, 0])
    assert model.facts == ("level 0 of 2 stacked outputs of the network is attacked",)
    evaluated, model = logits_of(network.eval())
    assert torch.equal(evaluated, network(IMAGE)) and model.facts == ()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda y: {"seg": y, "aux": y[..., :4]}, r"dict of 'seg': \(2, 3, 8, 8, 8\), 'aux': \(2, 3, 8, 8, 4\)"),
        (lambda y: (y, y + 1), r"tuple of \(2, 3, 8, 8, 8\), \(2, 3, 8, 8, 8\)"),
        (lambda y: [y[..., :4], y[..., :2]], r"list of \(2, 3, 8, 8, 4\), \(2, 3, 8, 8, 2\)"),
        (lambda y: [y, None, y], r"list of \(2, 3, 8, 8, 8\), NoneType, \(2, 3, 8, 8, 8\)"),
        (lambda y: "no", "got str"),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_an_ambiguous_answer_is_refused_with_keys_and_shapes(answer: Any, says: str, training: bool) -> None:
    inner = tiny_segmentation_network()
    attack = PGD(0.1, steps=1)
    with pytest.raises(TypeError, match=rf"must return one tensor of logits.*{says}.*: pass output="):
        (attack.perturb if training else attack)(lambda x: answer(inner(x)), IMAGE, LABEL)


@pytest.mark.parametrize("output", ["seg", lambda answer: answer["seg"]])
def test_output_picks(output: Any) -> None:
    inner = tiny_segmentation_network()
    logits, model = logits_of(lambda x: {"seg": inner(x), "aux": x}, output=output)
    assert torch.equal(logits, inner(IMAGE)) and model.facts == ()


def test_an_output_that_is_not_there_is_one_sentence() -> None:
    inner = tiny_segmentation_network()
    with pytest.raises(ValueError, match=r"output='mask' picks nothing from .* a dict of 'seg': \(2, 3, 8, 8, 8\)"):
        logits_of(lambda x: {"seg": inner(x)}, output="mask")
    with pytest.raises(ValueError, match=r"output=3 picks nothing from .* a list of"):
        logits_of(lambda x: [inner(x)], output=3)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv3d(1, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x)


@pytest.fixture
def fake_compiler(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """torch.compile's own wrapper around the network, without a compiler."""
    made: list[Any] = []
    compiler = torch.compile

    def compile_eagerly(network: nn.Module, **options: Any) -> Any:
        made.append(options)
        return compiler(network, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    return made


def test_a_compiled_network_is_compiled_once_and_freed_with_the_network(fake_compiler: list[Any]) -> None:
    network = Small()
    expected = PGD(0.1, steps=2)(network, IMAGE, LABEL).adversarial
    keys = set(network.state_dict())
    for _ in range(2):
        found = PGD(0.1, steps=2)(AttackedModel(network, compile_network=True), IMAGE, LABEL).adversarial
    torch.testing.assert_close(found, expected)
    assert len(fake_compiler) == 1
    assert set(network.state_dict()) == keys and len(list(network.modules())) == 2
    twin = copy.deepcopy(network)
    stored = io.BytesIO()
    torch.save(network, stored)
    stored.seek(0)
    again = torch.load(stored, weights_only=False)
    for other in (twin, again):
        assert not [part for part in vars(other).values() if part is not None and "compiled" in type(part).__name__]
        PGD(0.1, steps=1)(AttackedModel(other, compile_network=True), IMAGE, LABEL)
    assert len(fake_compiler) == 3
    gone = weakref.ref(network)
    del network, twin, again, other
    gc.collect()
    assert gone() is None


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = tiny_segmentation_network(), reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("inferer", [None, SlidingWindowInferer(6, 2, 0.5)])
def test_reentrant_checkpointing_is_one_sentence_and_the_other_form_is_exact(inferer: Any, training: bool) -> None:
    attack = PGD(0.1, steps=2)
    call = attack.perturb if training else attack
    with pytest.raises(RuntimeError, match=r"reentrant activation checkpointing.*use_reentrant=False\) in it\.$"):
        call(AttackedModel(Checkpointed(True), inferer), IMAGE, LABEL)
    network = Checkpointed(False)
    model = AttackedModel(network, inferer, precision="float32")
    found = call(model, IMAGE, LABEL).adversarial
    assert torch.equal(found, call(model.replace(network=network.inner), IMAGE, LABEL).adversarial)


@pytest.mark.parametrize("inferer", [None, SlidingWindowInferer(6, 1, 0.5)])
def test_checkpointing_works_in_every_precision(inferer: Any) -> None:
    """The kernels that are replaced for speed are the same when a checkpoint calls the network again."""
    for precision in ("auto", "bfloat16"):
        model = AttackedModel(Checkpointed(False), inferer, precision=precision)
        found = PGD(0.1, steps=2)(model, IMAGE[:1], LABEL[:1])
        expected = PGD(0.1, steps=2)(model.replace(network=model.network.inner), IMAGE[:1], LABEL[:1])
        torch.testing.assert_close(found.objective, expected.objective, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("inferer", [None, SlidingWindowInferer(6, 1, 0.5)])
@pytest.mark.parametrize("precision", ["auto", "float32"])
@pytest.mark.parametrize("softmax", [False, True])
def test_layers_that_run_again_change_nothing(inferer: Any, precision: str, softmax: bool) -> None:
    network = nn.Sequential(tiny_segmentation_network(), nn.Softmax(1)) if softmax else tiny_segmentation_network()
    found = [
        PGD(0.1, steps=3)(
            AttackedModel(network, inferer, precision=precision, checkpoint_layers=again), IMAGE, LABEL
        ).adversarial
        for again in (True, False, None)
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[1])


def test_layers_run_again_by_themselves_where_the_graph_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_checkpoints, "free_bytes", lambda device: 1000)
    restored = []
    original = layer_checkpoints.Recomputation.restore
    monkeypatch.setattr(
        layer_checkpoints.Recomputation,
        "restore",
        lambda self, saved: restored.append(1) or original(self, saved),
    )
    network = tiny_segmentation_network()
    found = PGD(0.1, steps=2)(AttackedModel(network), IMAGE, LABEL).adversarial
    assert restored
    count = len(restored)
    assert torch.equal(
        found, PGD(0.1, steps=2)(AttackedModel(network, checkpoint_layers=False), IMAGE, LABEL).adversarial
    )
    assert len(restored) == count


def test_nan_ends_an_evaluation_with_one_sentence() -> None:
    with pytest.raises(ValueError, match="returned NaN or infinite logits for the clean image"):
        PGD(0.1, steps=1)(lambda x: x * torch.nan, IMAGE, LABEL)


@pytest.fixture
def without_collections():
    """No garbage collection: what is freed is freed because nobody holds it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("inferer", [SlidingWindowInferer(8, overlap=0.25), lambda image, network: network(image)])
@pytest.mark.usefixtures("without_collections")
def test_more_steps_need_no_more_memory(inferer: Any) -> None:
    model = AttackedModel(tiny_segmentation_network(), inferer, precision="float32")
    image, label = random_image((1, 1, 12, 12, 12)), random_label((1, 1, 12, 12, 12))
    peaks = []
    for steps in (2, 2, 8):  # the first attack on a model learns about it
        with PeakBytes(model.network) as memory:
            ElasticAttack(2.0, steps=steps)(model, image, label, spacing=(1, 1, 1))
        peaks.append(memory.peak)
    assert peaks[2] < peaks[1] + image.nbytes


def test_an_inferer_may_copy_its_input_which_is_afterwards_as_it_was() -> None:
    seen: list[torch.Tensor] = []

    def inferer(image: torch.Tensor, network: Any) -> torch.Tensor:
        seen.append(image)
        return network(copy.deepcopy(image))

    model = AttackedModel(tiny_segmentation_network(), inferer, precision="float32")
    result = PGD(0.1, steps=2)(model, IMAGE, LABEL)
    plain = PGD(0.1, steps=2)(AttackedModel(model.network, precision="float32"), IMAGE, LABEL)
    assert torch.equal(result.adversarial, plain.adversarial)
    assert seen and not any("__deepcopy__" in vars(image) for image in seen)
