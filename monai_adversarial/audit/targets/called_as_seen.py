# SPDX-License-Identifier: Apache-2.0
"""An exported torch network as its first look has shown it: with gradients, or by queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from monai_adversarial.audit.targets.first_look import FirstLook
from monai_adversarial.audit.targets.network_call import ExportedNetwork
from monai_adversarial.audit.targets.queried_network import QueriedNetwork

__all__ = ["called_as_seen"]


def called_as_seen(network: Callable[..., Any], look: FirstLook, name: str, weights: str) -> nn.Module:
    """The module that an audit calls.

    Args:
        network: that was exported.
        look: what was seen of it.
        name: for sentences.
        weights: SHA-256, the identity of a network that is asked alone.
    """
    if look.differentiable:
        return ExportedNetwork(network, look.output, look.interface.batch)
    return QueriedNetwork(
        network, takes="torch", name=name, identity=weights, output=look.output, batch=look.interface.batch
    )
