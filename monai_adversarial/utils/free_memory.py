# SPDX-License-Identifier: Apache-2.0
"""How much memory a device has left for this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from monai_adversarial.utils.c_library import heap

__all__ = ["allocated_bytes", "free_bytes", "private_bytes", "reusable_heap"]

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_PROCESS = Path("/proc/self")
_MEMORY = Path("/proc/meminfo")


def free_bytes(device: torch.device | str) -> int | None:
    """Bytes that this process can still take on ``device`` before memory runs out.

    On a GPU what the driver has, and what torch's allocator holds and does not use. On a CPU under Linux what the
    system can give without swapping, or less where a control group (a container, a job of a cluster) limits the
    process, and what the C library's heap holds and does not use.

    Returns:
        None where it is not known: other systems and devices.
    """
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type != "cpu":
        return None
    try:
        available = _kilobytes(_MEMORY, "MemAvailable:")
    except (OSError, ValueError, IndexError):
        return None
    return max(0, min([available, *_room_in_control_groups()])) + reusable_heap()


def allocated_bytes(device: torch.device | str) -> int | None:
    """Bytes that this process's tensors and whatever else it allocated take on ``device``; None where it is not known.

    Differences tell what a piece of work keeps, as far as no other thread allocates meanwhile.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    known = heap() if device.type == "cpu" else None
    return None if known is None else known.used


def _kilobytes(path: Path, name: str) -> int:
    """A field of a file of lines like ``MemAvailable:   1234 kB``, in bytes."""
    line = next((line for line in path.read_text().splitlines() if line.startswith(name)), "")
    return int(line.split()[1]) * 1024


def reusable_heap() -> int:
    """Bytes of real memory that the C library holds and nobody uses; 0 where it is not known."""
    known, resident = heap(), private_bytes()
    if known is None or resident is None:
        return 0
    # Free blocks whose pages went back to the system count as free in the heap, too: they are no memory that we have.
    return max(0, min(known.free, resident - known.used))


def private_bytes() -> int | None:
    """Bytes of real memory that this process has to itself; None where it is not known."""
    try:
        pages, shared = map(int, (_PROCESS / "statm").read_text().split()[1:3])
    except (OSError, ValueError):
        return None
    return (pages - shared) * os.sysconf("SC_PAGE_SIZE")


def _room_in_control_groups() -> Iterator[int]:
    """Bytes left in each control group around this process that has a limit."""
    try:
        lines = (_PROCESS / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = _CONTROL_GROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = _CONTROL_GROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = root / path.lstrip("/")
        # In a container the path may be that of the host, where only the root is seen; limits of parents hold, too.
        for folder in (group, *group.parents):
            if folder == root or root in folder.parents:
                room = _room(folder, *names)
                if room is not None:
                    yield room


def _room(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> int | None:
    try:
        limit, usage = (folder / limit_name).read_text().strip(), int((folder / usage_name).read_text())
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # Files in the page cache count as usage, and go when memory is asked for.
    return None if limit == "max" else int(limit) - usage + int(fields.get(cache_name, 0))
