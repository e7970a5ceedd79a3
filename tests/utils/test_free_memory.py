# SPDX-License-Identifier: Apache-2.0
"""What a process can still take: the system's word, a container's limits, the heap's own reserve."""

from __future__ import annotations

import os

import pytest
import torch

from monai_adversarial.utils import c_library, free_memory
from monai_adversarial.utils.c_library import Heap
from monai_adversarial.utils.free_memory import allocated_bytes, free_bytes

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of files: 16 GiB available, this process in the group ``jobs/one``, an empty heap."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {16 * GIB // 1024} kB\n")
    (tmp_path / "process").mkdir()
    (tmp_path / "process" / "statm").write_text("100 100 0 0 0 0 0\n")
    monkeypatch.setattr(free_memory, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(free_memory, "_PROCESS", tmp_path / "process")
    monkeypatch.setattr(free_memory, "_CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(free_memory, "heap", lambda: None)

    def group(version: int, path: str, limit: int | str, usage: int, cache: int) -> None:
        line, root, names = {
            1: ("4:cpu,memory:/jobs/one\n", tmp_path / "groups" / "memory", ("limit_in_bytes", "usage_in_bytes")),
            2: ("0::/jobs/one\n", tmp_path / "groups", ("max", "current")),
        }[version]
        (tmp_path / "process" / "cgroup").write_text(line)
        folder = root / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"memory.{names[0]}").write_text(f"{limit}\n")
        (folder / f"memory.{names[1]}").write_text(f"{usage}\n")
        name = "total_inactive_file" if version == 1 else "inactive_file"
        (folder / "memory.stat").write_text(f"anon 1\n{name} {cache}\n")

    return group


def test_without_limits_it_is_what_the_system_has(machine):
    assert free_bytes("cpu") == 16 * GIB
    machine(2, "jobs/one", "max", 3 * GIB, 0)
    assert free_bytes("cpu") == 16 * GIB


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("path", ["jobs/one", "jobs", ""])
def test_the_tightest_limit_of_the_group_and_those_around_it_holds(machine, version, path):
    machine(version, "jobs/one", 12 * GIB, GIB, 0)
    machine(version, path, 8 * GIB, 6 * GIB, GIB)
    assert free_bytes("cpu") == 3 * GIB
    machine(version, path, 8 * GIB, 9 * GIB, 0)
    assert free_bytes("cpu") == 0


def test_the_heap_lends_what_it_holds_as_far_as_it_is_resident(machine, monkeypatch, tmp_path):
    page = os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "process" / "statm").write_text(f"9999 {700} {100} 0 0 0 0\n")
    for free, reusable in [(150, 150), (450, 200)]:
        monkeypatch.setattr(free_memory, "heap", lambda free=free: Heap(used=400 * page, free=free * page))
        assert free_bytes("cpu") == 16 * GIB + reusable * page


def test_unknown_machines_say_so(machine, monkeypatch, tmp_path):
    assert free_bytes("meta") is None
    monkeypatch.setattr(free_memory, "_MEMORY", tmp_path / "nothing")
    assert free_bytes("cpu") is None
    assert allocated_bytes("cpu") is None and allocated_bytes("meta") is None


@pytest.mark.skipif(c_library.heap() is None, reason="the C library does not tell what is allocated")
def test_a_tensor_is_seen_to_come_and_go():
    before = allocated_bytes("cpu")
    tensor = torch.ones(3_000_000)
    assert abs(allocated_bytes("cpu") - before - tensor.nbytes) < 200_000
    del tensor
    assert abs(allocated_bytes("cpu") - before) < 200_000


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="not Linux")
def test_this_machine_has_memory_left():
    assert 0 < free_bytes("cpu") < 2**50
