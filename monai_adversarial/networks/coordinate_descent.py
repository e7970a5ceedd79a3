# SPDX-License-Identifier: Apache-2.0
"""Training of sign units without gradients: stochastic coordinate descent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from monai_adversarial.networks.sign_activation import SignActivationHead
from monai_adversarial.utils.validation import check_choice, check_count, check_positive

__all__ = ["train_by_coordinate_descent"]

LOSSES = ("zero_one", "cross_entropy")
#: thresholds tried for an output under cross-entropy, where no sort gives the loss of all of them
OUTPUT_THRESHOLDS = 16


def train_by_coordinate_descent(
    head: SignActivationHead,
    features: torch.Tensor,
    labels: torch.Tensor,
    steps: int = 1000,
    batch_size: int | None = 1024,
    loss: str = "cross_entropy",
    increment: float = 0.17,
    coordinates: int = 32,
    class_weights: Sequence[float] | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Train a head in place by stochastic coordinate descent; no gradient is ever computed.

    Each step draws a batch, one node (a hidden unit or an output) and a subset of its weights. Each of these weights
    is moved up and down by ``increment``, one at a time, the node's weights are scaled back to length one, and the
    threshold is chosen among the midpoints of the sorted projections of the batch. It is all of them (by cumulative
    sums), except for outputs under cross-entropy, where it is some of them. The best of it all is kept where the loss
    of the batch becomes smaller. On one fixed batch the loss therefore never rises; on random ones it may rise
    elsewhere.

    >>> import torch
    >>> from monai_adversarial.networks import SignActivationHead, train_by_coordinate_descent
    >>> features = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> labels = (features[:, 0] > 0).long()
    >>> head = SignActivationHead(features=2, hidden=4)
    >>> losses = train_by_coordinate_descent(head, features, labels, steps=40, batch_size=None)
    >>> bool((losses[:, 1] <= losses[:, 0]).all()), float((head(features).argmax(dim=1) == labels).float().mean()) > 0.8
    (True, True)

    Source: Yang et al. 2022, after Xue, Xie, Roshan, "Robust binary classification with the 01 loss", 2020. The step
    sizes, several classes at once and the search over all thresholds are a reconstruction.

    Args:
        head: is changed.
        features: (samples, features) or (batch, features, spatial...), finite, of similar scale.
        labels: class indices, (samples,) or (batch, spatial...) or (batch, 1, spatial...).
        steps: number of nodes that are tried.
        batch_size: samples (voxels) per step; None for all.
        loss: ``"cross_entropy"``, or ``"zero_one"``, the share of wrong answers. The latter has plateaus on which no
            single node helps (on exclusive or, half of the starts stay at 75 %): use small batches and several seeds.
        increment: change of one weight of a node whose weights have length one.
        coordinates: weights tried per step.
        class_weights: one number per class that multiplies the loss of its samples; None for ones.
        seed: of batches, nodes and weights.

    Returns:
        (steps, 2): loss of each step's batch before and after it, float64, on the device of the features.

    Raises:
        ValueError: for shapes or labels that do not fit the head, or an argument out of range.

    Survey entry: D13 (reconstruction).
    """
    check_count("steps", steps)
    check_choice("loss", loss, LOSSES)
    increment = check_positive("increment", increment)
    check_count("coordinates", coordinates)
    samples, classes = _flatten(head, features, labels)
    count = len(samples)
    batch_size = count if batch_size is None else min(check_count("batch_size", batch_size, minimum=2), count)
    weights = samples.new_ones(head.classes) if class_weights is None else samples.new_tensor(class_weights)
    if weights.shape != (head.classes,) or not bool((weights >= 0).all()) or not bool(weights[classes].sum() > 0):
        raise ValueError(f"class_weights must be {head.classes} numbers >= 0, not all zero, got {class_weights}.")
    generator = torch.Generator().manual_seed(check_count("seed", seed, minimum=0))
    history = []
    with torch.no_grad(), torch.autocast(samples.device.type, enabled=False):
        for _ in range(steps):
            node = int(torch.randint(head.hidden + head.classes, (), generator=generator))
            width = head.features if node < head.hidden else head.hidden
            tried = torch.randperm(width, generator=generator)[:coordinates].to(samples.device)
            x, y = samples, classes
            if batch_size < count:
                batch = torch.randperm(count, generator=generator)[:batch_size].to(samples.device)
                x, y = samples[batch], classes[batch]
            history.append(_step(head, x, y, weights[y], node, tried, increment, loss))
    return torch.stack(history)


def _flatten(
    head: SignActivationHead, features: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if features.ndim < 2 or features.shape[1] != head.features:
        raise ValueError(f"features must have shape (batch, {head.features}, ...), got {tuple(features.shape)}.")
    samples = features.detach().movedim(1, -1).reshape(-1, head.features).to(head.weight)
    places = (features.shape[0], *features.shape[2:])
    if tuple(labels.shape) not in (places, (places[0], 1, *places[1:])):
        raise ValueError(f"labels must have shape {places} as the features have, got {tuple(labels.shape)}.")
    classes = labels.detach().reshape(-1).to(device=samples.device, dtype=torch.long)
    if len(samples) < 2 or not bool(torch.isfinite(samples).all()):
        raise ValueError(f"features must be at least two finite samples, got {len(samples)}.")
    if int(classes.min()) < 0 or int(classes.max()) >= head.classes:
        raise ValueError(
            f"labels must be class indices from 0 to {head.classes - 1}, got {int(classes.min())} to "
            f"{int(classes.max())}."
        )
    return samples, classes


def _step(
    head: SignActivationHead,
    x: torch.Tensor,
    y: torch.Tensor,
    weights: torch.Tensor,
    node: int,
    tried: torch.Tensor,
    increment: float,
    loss: str,
) -> torch.Tensor:
    signs = head.activate(F.linear(x, head.weight, head.bias))
    logits = F.linear(signs, head.output_weight, head.output_bias)
    if node < head.hidden:
        weight, bias = head.weight, head.bias
        row, projections = _moved(weight[node], x, tried, increment)
        column = head.output_weight[:, node]
        rest = logits - signs[:, node, None] * column
        costs = [weights * _losses(rest + side * column, y, loss) for side in (1, -1)]
        best, threshold = _best_threshold(projections, *costs)
    else:
        node -= head.hidden
        weight, bias = head.output_weight, head.output_bias
        row, projections = _moved(weight[node], signs, tried, increment)
        best, threshold = _best_output(projections, logits, node, bias[node], y, weights, loss)
    new_weight, new_bias = weight.clone(), bias.clone()
    new_weight[node] = row[best]
    new_bias[node] = -threshold
    total = weights.sum(dtype=torch.float64)
    before = (weights * _losses(logits, y, loss)).sum(dtype=torch.float64) / total
    # The loss of the head as it will be, not the one found by sums: rounding must not make it rise.
    if weight is head.weight:
        after_logits = F.linear(head.activate(F.linear(x, new_weight, new_bias)), head.output_weight, head.output_bias)
    else:
        after_logits = F.linear(signs, new_weight, new_bias)
    after = (weights * _losses(after_logits, y, loss)).sum(dtype=torch.float64) / total
    better = (after < before) & torch.isfinite(threshold)
    weight.copy_(torch.where(better, new_weight, weight))
    bias.copy_(torch.where(better, new_bias, bias))
    return torch.stack((before, torch.where(better, after, before)))


def _moved(
    row: torch.Tensor, x: torch.Tensor, tried: torch.Tensor, increment: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates (candidate, weight) of length one, the row itself last, and projections (sample, candidate)."""
    changes = F.one_hot(tried, len(row)).to(row) * increment
    candidates = F.normalize(torch.cat((row + changes, row - changes, row[None])), dim=1)
    return candidates, F.linear(x, candidates)


def _losses(logits: torch.Tensor, y: torch.Tensor, loss: str) -> torch.Tensor:
    """Loss of each sample."""
    if loss == "zero_one":
        return (logits.argmax(dim=1) != y).to(logits.dtype)
    return F.cross_entropy(logits, y, reduction="none")


def _best_threshold(
    projections: torch.Tensor, above: torch.Tensor, below: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The candidate and the midpoint with the smallest sum of costs, ``above`` for samples above it, else ``below``.

    The threshold is infinite when no two projections of any candidate differ.
    """
    values, order = projections.sort(dim=0)
    difference = (below.double() - above.double())[order].cumsum(dim=0)[:-1]
    middle = values[:-1] + (values[1:] - values[:-1]) / 2
    cost = torch.where((middle > values[:-1]) & (values[1:] > values[:-1]), difference, torch.inf).flatten()
    place = cost.argmin()
    threshold = torch.where(torch.isfinite(cost[place]), middle.flatten()[place], torch.inf)
    return place % projections.shape[1], threshold


def _best_output(
    projections: torch.Tensor,
    logits: torch.Tensor,
    node: int,
    bias: torch.Tensor,
    y: torch.Tensor,
    weights: torch.Tensor,
    loss: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    others = logits.clone()
    others[:, node] = -torch.inf
    margins = projections - others.amax(dim=1, keepdim=True)
    if loss == "zero_one":
        wrong = (y != node).to(logits), (others.argmax(dim=1) != y).to(logits)
        return _best_threshold(margins, weights * wrong[0], weights * wrong[1])
    values = margins.sort(dim=0).values
    places = torch.linspace(0, len(values) - 2, OUTPUT_THRESHOLDS, device=values.device).long()
    middle = (values[places] + values[places + 1]) / 2  # (threshold, candidate)
    middle = torch.cat((middle, (-bias).expand(1, middle.shape[1])))
    costs = []
    label_logit = others.gather(1, y[:, None])
    mine = (y == node)[:, None]
    rest = others.logsumexp(dim=1, keepdim=True)
    for threshold in middle:
        own = projections - threshold  # (sample, candidate)
        cost = torch.logaddexp(rest, own) - torch.where(mine, own, label_logit)
        costs.append((weights[:, None] * cost).sum(dim=0, dtype=torch.float64))
    cost = torch.stack(costs).flatten()
    place = cost.argmin()
    return place % projections.shape[1], middle.flatten()[place]
