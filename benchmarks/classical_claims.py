# SPDX-License-Identifier: Apache-2.0
"""The survey's claims on classical classifiers, measured: docs/benchmarks/classical.json and the figure of its page.

    python -m benchmarks.classical_claims

Digits are those of scikit-learn (8 x 8, real), organs those of the CT phantom, claims of codes are invented.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from benchmarks.doc_tables import DOCS, replace_table
from monai_adversarial.attacks import Attack
from monai_adversarial.classical import (
    FEATURES,
    AdversaryAwareNaiveBayes,
    EvasionAttack,
    Mimicry,
    NaiveBayes,
    discriminant_of,
    minimum_cost_camouflage,
    organ_features,
    synthetic_claims,
    upcode,
)
from monai_adversarial.data.phantom import CLASS_NAMES, generate_ct_phantom
from monai_adversarial.models import AttackedModel

RECORD = DOCS / "benchmarks" / "classical.json"
FIGURE = DOCS / "images" / "classical_digits.png"
DISTANCES = (0.25, 0.5, 1.0, 1.5)


def threes_and_sevens() -> tuple[np.ndarray, np.ndarray]:
    """Pixels from 0 to 1, and 1 for a three, which is to pass as a seven."""
    found = load_digits()
    chosen = np.isin(found.target, (3, 7))
    return found.data[chosen] / 16, (found.target[chosen] == 3).astype(int)


def estimators(samples: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The three kinds of the paper, fitted."""
    kinds = {
        "linear SVM": LinearSVC(C=1.0, random_state=0),
        "RBF SVM": SVC(kernel="rbf", C=10.0, gamma=0.1),
        "MLP": MLPClassifier((16,), max_iter=400, random_state=0),
    }
    return {name: kind.fit(samples, labels) for name, kind in kinds.items()}


def evaded(estimator: Any, vectors: np.ndarray, attack: Attack) -> tuple[np.ndarray, np.ndarray]:
    """The changed vectors, and what the estimator itself says of them."""
    model = AttackedModel(discriminant_of(estimator), task="classification", output_values="logits")
    batch = torch.from_numpy(vectors[:, None])
    changed = attack(model, batch, torch.ones(len(vectors), dtype=torch.int64)).adversarial[:, 0].numpy()
    return changed, estimator.predict(changed)


def digits() -> dict[str, Any]:
    """Share of threes that pass as sevens, by distance, with and without mimicry."""
    samples, labels = threes_and_sevens()
    test = np.arange(len(labels)) % 3 == 0
    fitted = estimators(samples[~test], labels[~test])
    sevens = samples[~test][labels[~test] == 0]
    found: dict[str, Any] = {}
    for name, estimator in fitted.items():
        threes = samples[test][(labels[test] == 1) & (estimator.predict(samples[test]) == 1)]
        rows: dict[str, Any] = {"accuracy": float(estimator.score(samples[test], labels[test])), "passes": {}}
        for weight in (0.0, 10.0):
            mimicry = Mimicry(sevens, weight, bandwidth=2.0)
            shares, distances = [], []
            for distance in DISTANCES:
                changed, answers = evaded(estimator, threes, EvasionAttack(distance, mimicry))
                shares.append(float((answers == 0).mean()))
                away = np.linalg.norm(changed[:, None] - sevens[None], axis=2).min(axis=1)
                distances.append(float(away.mean()))
            rows["passes"][f"lambda {weight:g}"] = shares
            rows.setdefault("distance to the nearest seven", {})[f"lambda {weight:g}"] = distances
        noise = np.random.default_rng(0).standard_normal(threes.shape)
        noise *= np.array(DISTANCES)[-1] / np.linalg.norm(noise, axis=1, keepdims=True)
        rows["passes by chance"] = float((estimator.predict(threes + noise) == 0).mean())
        found[name] = rows
    draw(samples[test][labels[test] == 1][0], fitted["linear SVM"], sevens)
    return found


def draw(three: np.ndarray, estimator: Any, sevens: np.ndarray) -> None:
    """A three that becomes a seven for the machine, with the discriminant below each picture."""
    import matplotlib.pyplot as plt

    shown = [three]
    for distance in DISTANCES:
        shown.append(evaded(estimator, three[None], EvasionAttack(distance))[0][0])
    shown.append(evaded(estimator, three[None], EvasionAttack(DISTANCES[-1], Mimicry(sevens, 10.0, 2.0)))[0][0])
    titles = ["three", *[f"distance {distance:g}" for distance in DISTANCES], f"{DISTANCES[-1]:g}, mimicry"]
    figure, axes = plt.subplots(1, len(shown), figsize=(1.6 * len(shown), 2.1))
    for axis, vector, title in zip(axes, shown, titles, strict=True):
        axis.imshow(vector.reshape(8, 8), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=8)
        axis.set_xlabel(f"g = {float(estimator.decision_function(vector[None])[0]):+.2f}", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=110)
    plt.close(figure)


def organs(patients: int = 24) -> dict[str, Any]:
    """Livers of the phantom, half of them 12 HU darker: a linear machine on five features, and its evasion."""
    liver = CLASS_NAMES.index("liver")
    rows, labels = [], []
    for seed in range(patients):
        image, label, affine = generate_ct_phantom(seed, size=(48, 48, 32))
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        dark = seed % 2
        rows.append(organ_features(image - 12.0 * dark * (label == liver), label, liver, spacing))
        labels.append(dark)
    vectors, classes = StandardScaler().fit_transform(np.array(rows)), np.array(labels)
    machine = LinearSVC(C=1.0, random_state=0).fit(vectors, classes)
    known = vectors[(classes == 1) & (machine.predict(vectors) == 1)]
    shares = [float((evaded(machine, known, EvasionAttack(d))[1] == 0).mean()) for d in (0.5, 1.0, 2.0)]
    weights = dict(zip(FEATURES, map(float, machine.coef_[0]), strict=True))
    return {"accuracy": float(machine.score(vectors, classes)), "passes": shares, "weights": weights}


def codes() -> dict[str, Any]:
    """Naive Bayes on invented claims: its adversary, and the classifier that knows it."""
    claims, labels = synthetic_claims(600)
    test, _labels = synthetic_claims(400, seed=1)
    check = NaiveBayes().fit(claims, labels)
    costs = [np.array([[0.0, 1.0], [1.0, 0.0]])] * claims.shape[1]
    gain = 3.5
    upcoded, honest = test[_labels == 1], test[_labels == 0]
    shown = np.array([minimum_cost_camouflage(check, row, costs, gain, 200).sample for row in upcoded])
    aware = AdversaryAwareNaiveBayes(check, costs, gain)
    filed = [upcode(check, row) for row in upcoded if check.predict([row])[0] == 1]
    return {
        "found, honest adversary": float(check.predict(upcoded).mean()),
        "found, camouflage": float(check.predict(shown).mean()),
        "found, camouflage, aware": float(aware.predict(shown).mean()),
        "false alarms": float(check.predict(honest).mean()),
        "false alarms, aware": float(aware.predict(honest).mean()),
        "payment kept by upcoding": float(np.mean([one.kept for one in filed])),
    }


def figures(found: dict[str, Any]) -> str:
    """The tables of the page, and the verdict on each claim, from the record."""
    lines = [
        "| classifier | accuracy | " + " | ".join(f"d = {d:g}" for d in found["distances"]) + " | by chance |",
        "|---|---:|" + "---:|" * (len(found["distances"]) + 1),
    ]
    for name, row in found["digits"].items():
        shares = " | ".join(f"{share:.2f}" for share in row["passes"]["lambda 0"])
        last = found["distances"][-1]
        lines.append(f"| {name} | {row['accuracy']:.2f} | {shares} | {row['passes by chance']:.2f} (d = {last:g}) |")
    codes, organ = found["codes"], found["organs"]
    evades = all(r["passes"]["lambda 0"][-1] > r["passes by chance"] + 0.5 for r in found["digits"].values())
    nearer = all(
        r["distance to the nearest seven"]["lambda 10"][-1] < r["distance to the nearest seven"]["lambda 0"][-1]
        for r in found["digits"].values()
    )
    hides = codes["found, camouflage"] < codes["found, honest adversary"] - 0.2
    helps = codes["found, camouflage, aware"] > codes["found, camouflage"] + 0.2
    rows = [
        ("Gradients evade linear and kernel machines and perceptrons (Fig. 1)", evades, "the table above"),
        ("The density term leads nearer to real sevens", nearer, "mean distance to the nearest seven, lambda 10 and 0"),
        (
            "The cheapest camouflage defeats naive Bayes",
            hides,
            f"{codes['found, honest adversary']:.2f} found before, {codes['found, camouflage']:.2f} after",
        ),
        (
            "A classifier that knows the adversary finds it again",
            helps,
            f"{codes['found, camouflage, aware']:.2f} found, at {codes['false alarms, aware']:.2f} false alarms "
            f"instead of {codes['false alarms']:.2f}",
        ),
        (
            "Upcoding pays in spite of a check",
            codes["payment kept by upcoding"] > 0.5,
            f"{codes['payment kept by upcoding']:.2f} of the wanted payment is kept",
        ),
        (
            "Radiomics of an organ are evaded as pixels are",
            organ["passes"][-1] > 0.5,
            f"linear SVM, accuracy {organ['accuracy']:.2f} on what it was fitted to; "
            f"{', '.join(f'{p:.2f}' for p in organ['passes'])} pass at "
            "0.5, 1 and 2 standard deviations",
        ),
    ]
    lines += ["", "| claim | verdict | figures |", "|---|---|---|"]
    lines += [f"| {claim} | {'holds' if holds else 'refuted here'} | {shown} |" for claim, holds, shown in rows]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    found = {"distances": list(DISTANCES), "digits": digits(), "organs": organs(), "codes": codes()}
    RECORD.write_text(json.dumps(found, indent=1) + "\n")
    page = DOCS / "classical.md"
    page.write_text(replace_table(page.read_text(encoding="utf-8"), "classical", figures(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
