# SPDX-License-Identifier: Apache-2.0
"""Other libraries of attacks, given the same job: one small file each, called only where the library is installed."""

from __future__ import annotations

from benchmarks.peers.problem import PeerAttack, Problem
from benchmarks.peers.registry import PEERS, Peer, loaded_attacks

__all__ = ["PEERS", "Peer", "PeerAttack", "Problem", "loaded_attacks"]
