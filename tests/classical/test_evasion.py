# SPDX-License-Identifier: Apache-2.0
"""Evasion of fitted classifiers: closed form, scikit-learn as oracle, mimicry, radiomics of organs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from monai_adversarial.classical import (
    EvasionAttack,
    LinearDiscriminant,
    Mimicry,
    MLPDiscriminant,
    RBFDiscriminant,
    discriminant_of,
    organ_features,
)
from monai_adversarial.data.phantom import CLASS_NAMES, generate_ct_phantom
from monai_adversarial.models import AttackedModel

pytest.importorskip("sklearn")
from sklearn.neural_network import MLPClassifier  # noqa: E402
from sklearn.svm import SVC, LinearSVC  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402


def two_clouds(count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    return generator.standard_normal((count, 4)) * 0.5 + labels[:, None], labels


def model_of(estimator: Any) -> AttackedModel:
    return AttackedModel(discriminant_of(estimator), task="classification", output_values="logits")


def changed_by(attack: EvasionAttack, model: AttackedModel, vectors: np.ndarray) -> np.ndarray:
    batch = torch.from_numpy(vectors[:, None])
    return attack(model, batch, torch.ones(len(vectors), dtype=torch.int64)).adversarial[:, 0].numpy()


KINDS = {
    "linear": LinearSVC(random_state=0),
    "linear kernel": SVC(kernel="linear"),
    "rbf": SVC(kernel="rbf", gamma=0.3),
    "rbf scaled": SVC(kernel="rbf"),
    "mlp": MLPClassifier((8,), activation="tanh", max_iter=300, random_state=0),
}
CLASSES = {"linear": LinearDiscriminant, "rbf": RBFDiscriminant, "mlp": MLPDiscriminant}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_discriminants_are_those_of_scikit_learn(name: str) -> None:
    vectors, labels = two_clouds()
    fitted = KINDS[name].fit(vectors, labels)
    ours = discriminant_of(fitted)
    assert isinstance(ours, CLASSES[name.split()[0]])
    batch = torch.from_numpy(vectors[:, None]).requires_grad_()
    values = ours(batch)[:, 0]
    if name == "mlp":
        probability = fitted.predict_proba(vectors)[:, 1]
        assert np.allclose(values.detach().sigmoid().numpy(), probability)
    else:
        assert np.allclose(values.detach().numpy(), fitted.decision_function(vectors))
    assert torch.autograd.gradcheck(lambda x: ours(x), batch[:2].detach().requires_grad_())


def test_a_linear_machine_is_left_along_its_weights() -> None:
    """The best change within a Euclidean distance d is -d w / |w|, which lowers g by d |w|."""
    vectors, labels = two_clouds()
    fitted = LinearSVC(random_state=0).fit(vectors, labels)
    known = vectors[labels == 1]
    for distance in (0.3, 0.9):
        changed = changed_by(EvasionAttack(distance), model_of(fitted), known)
        weight = fitted.coef_[0]
        assert np.allclose(changed, known - distance * weight / np.linalg.norm(weight), atol=1e-6)
        fell = fitted.decision_function(known) - fitted.decision_function(changed)
        assert np.allclose(fell, distance * np.linalg.norm(weight), rtol=1e-6)


@pytest.mark.parametrize("name", ["rbf", "mlp"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_evasion_is_stronger_than_chance_and_grows_with_the_distance(name: str) -> None:
    vectors, labels = two_clouds()
    fitted = KINDS[name].fit(vectors, labels)
    known = vectors[(labels == 1) & (fitted.predict(vectors) == 1)]
    left = []
    for distance in (0.3, 0.8, 1.5):
        changed = changed_by(EvasionAttack(distance), model_of(fitted), known)
        assert (np.linalg.norm(changed - known, axis=1) <= distance * (1 + 1e-5)).all()
        left.append(float((fitted.predict(changed) == 1).mean()))
    noise = np.random.default_rng(0).standard_normal(known.shape)
    by_chance = known + 1.5 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    assert left == sorted(left, reverse=True) and left[-1] < float((fitted.predict(by_chance) == 1).mean()) - 0.3


@pytest.mark.parametrize("kernel", ["laplacian", "gaussian"])
def test_mimicry_stays_near_samples_of_the_wanted_class(kernel: str) -> None:
    vectors, labels = two_clouds()
    fitted = LinearSVC(random_state=0).fit(vectors, labels)
    known, wanted = vectors[labels == 1], vectors[labels == 0]
    mimicry = Mimicry(wanted, weight=50.0, bandwidth=1.0, kernel=kernel)
    free, alike = (changed_by(EvasionAttack(2.0, term), model_of(fitted), known) for term in (None, mimicry))

    def density(batch: np.ndarray) -> float:
        return float(mimicry.density(torch.from_numpy(batch[:, None])).mean())

    assert density(alike) > density(free) > density(known)
    assert (fitted.predict(alike) == 0).mean() > 0.9
    leaf = torch.from_numpy(known[:2, None]).requires_grad_()
    assert torch.autograd.gradcheck(mimicry.density, leaf)


def test_other_estimators_are_refused() -> None:
    vectors, labels = two_clouds()
    with pytest.raises(ValueError, match="must be fitted to two classes, got LinearSVC with none"):
        discriminant_of(LinearSVC())
    with pytest.raises(ValueError, match="LinearSVC with 3"):
        discriminant_of(LinearSVC().fit(vectors, np.arange(60) % 3))
    with pytest.raises(TypeError, match="got DecisionTreeClassifier"):
        discriminant_of(DecisionTreeClassifier().fit(vectors, labels))
    with pytest.raises(TypeError, match="got SVC with kernel 'poly'"):
        discriminant_of(SVC(kernel="poly").fit(vectors, labels))
    with pytest.raises(ValueError, match="samples must be finite vectors"):
        Mimicry([1.0, 2.0])
    with pytest.raises(ValueError, match="kernel must be one of"):
        Mimicry([[1.0]], kernel="box")


def test_features_of_the_phantoms_liver() -> None:
    image, label, affine = generate_ct_phantom(0, size=(40, 40, 24))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    liver = CLASS_NAMES.index("liver")
    features = organ_features(image, label, liver, spacing)
    inside = image[label == liver].astype(float)
    assert features[0] == pytest.approx(inside.size * spacing.prod() / 1000)
    assert features[1:3].tolist() == pytest.approx([inside.mean(), inside.std()])
    darker = organ_features(image - 12.0 * (label == liver), label, liver, spacing)
    assert darker[1] == pytest.approx(features[1] - 12) and darker[[0, 2, 3]].tolist() == features[[0, 2, 3]].tolist()
    with pytest.raises(ValueError, match="no voxel is 99"):
        organ_features(image, label, 99, spacing)
