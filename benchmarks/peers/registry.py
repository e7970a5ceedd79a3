# SPDX-License-Identifier: Apache-2.0
"""Which libraries there are, how they are installed, and which of them are here."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from importlib import metadata

from benchmarks.peers.problem import PeerAttack

__all__ = ["PEERS", "Peer", "loaded_attacks"]

# In two steps: torchattacks asks for requests 2.25, and the versions of the tests are others.
EXTRA = 'pip install -e ".[all]" -c constraints.txt && pip install -e ".[benchmarks]" -c benchmarks/constraints.txt'


@dataclass(frozen=True)
class Peer:
    """A library.

    Args:
        name: of its distribution.
        module: that is imported.
        adapter: of this package, has ``ATTACKS``.
        install: how it is installed.
    """

    name: str
    module: str
    adapter: str
    install: str = EXTRA

    def installed(self) -> bool:
        """Whether it is found, without importing all of it."""
        try:
            return importlib.util.find_spec(self.module) is not None
        except ModuleNotFoundError:  # a parent package is missing
            return False

    def version(self) -> str:
        """Version of the distribution; "source" for a checkout on the path."""
        try:
            return metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return "source"

    def attacks(self) -> tuple[PeerAttack, ...]:
        """Its attacks."""
        return importlib.import_module(f"benchmarks.peers.{self.adapter}").ATTACKS


PEERS = (
    Peer("torchattacks", "torchattacks", "torchattacks"),
    Peer(
        "adv-lib",
        "adv_lib.attacks",
        "adv_lib",
        # visdom, which it imports, is built from source with pkg_resources, which setuptools 81 removed. The last step:
        # the one with torch brings the newest setuptools back.
        'pip install "setuptools<81" wheel && pip install --no-build-isolation -c benchmarks/constraints.txt adv-lib',
    ),
    Peer("secml-torch", "secmlt", "secml_torch"),
    Peer("foolbox", "foolbox", "foolbox"),
    Peer("adversarial-robustness-toolbox", "art.attacks", "art"),
    Peer(
        "advchain",
        "advchain.augmentor",
        "advchain",
        "not on the package index: git clone https://github.com/cherise215/advchain, its folder on PYTHONPATH, and "
        "pip install opencv-python-headless SimpleITK",
    ),
    Peer(
        "autoattack",
        "autoattack.autopgd_base",
        "auto_attack",
        "not on the package index: git clone https://github.com/fra31/auto-attack, its folder on PYTHONPATH",
    ),
)


def loaded_attacks(*kinds: str) -> tuple[list[tuple[Peer, PeerAttack]], list[str]]:
    """The attacks of some kinds of all libraries that are here, and one line for each library that is not."""
    found: list[tuple[Peer, PeerAttack]] = []
    absent = []
    for peer in PEERS:
        if not peer.installed():
            absent.append(f"{peer.name}: not installed ({peer.install}).")
            continue
        try:
            attacks = peer.attacks()
        except Exception as error:  # a broken library is one line, and the others go on
            absent.append(f"{peer.name} {peer.version()}: cannot be imported ({type(error).__name__}: {error}).")
            continue
        found += [(peer, attack) for attack in attacks if attack.kind in kinds]
    return found, absent
