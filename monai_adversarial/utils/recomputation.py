# SPDX-License-Identifier: Apache-2.0
"""Values of a forward pass computed again for its backward pass, within a memory budget.

The tape is cut into stages, each with as many saved values as half of the budget holds. The backward pass goes through
the stages from the last to the first; for each, the operations from the last restart before it are run once more, and
what it saved is held until the next. The other half of the budget is for restarts: the values that cross from one stage
into the next. They are placed on the way, at the distances of the binomial schedule, which computes nothing more often
than needed for their number.

Source: Griewank and Walther, Algorithm 799: revolve, ACM Transactions on Mathematical Software 26(1), 2000; stages as
in Chen et al., Training deep nets with sublinear memory cost, 2016. On a tape of operations instead of modules, so that
it holds for every network: reconstruction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import comb

import torch
from torch.utils._pytree import tree_leaves, tree_unflatten

from monai_adversarial.utils.allocator import give_back_excess
from monai_adversarial.utils.operation_tape import Operation, OperationTape, Reading, Saved, fingerprint

__all__ = ["Recomputation", "restart_distance"]

# Results of an operation after which it is looked whether the heap has grown.
_LARGE = 4 * 2**20


def restart_distance(stages: int, restarts: int) -> int:
    """How many of ``stages`` lie before the first of ``restarts`` in the binomial schedule.

    It is the longest chain with this number of restarts in which no stage runs more often than it must.
    """
    rounds = 0
    while comb(restarts + rounds, restarts) < stages:
        rounds += 1
    return min(stages - 1, max(1, stages - comb(restarts + rounds - 1, restarts - 1)))


@dataclass
class Recomputation:
    """How one tape is gone through backwards.

    Args:
        tape: of a forward pass that is over.
        budget: bytes for what is held. At least it is what goes well: twice the largest memory that the forward pass
            without a graph needs at once, counted in float32.
    """

    tape: OperationTape
    budget: float = 0.0
    starts: list[int] = field(default_factory=list)
    working_bytes: int = 0
    _restarts: list[tuple[int, set[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        operations, values = self.tape.operations, self.tape.values
        last_read: dict[int, int] = {}
        for place, operation in enumerate(operations):
            last_read.update(dict.fromkeys(operation.reads, place))
        leave: dict[int, list[int]] = {}
        for number, place in last_read.items():
            leave.setdefault(place, []).append(number)
        crossing, live, live_float32 = [], 0, 0  # bytes that are read after each operation
        for place, operation in enumerate(operations):
            results = [values[number] for number in operation.results if values[number].made_at is not None]
            live += sum(value.bytes for value in results)
            live_float32 += sum(value.float32_bytes for value in results)
            self.working_bytes = max(self.working_bytes, live_float32)
            unread = [number for number in operation.results if number not in last_read]
            for number in (*leave.get(place, ()), *unread):
                if values[number].made_at is not None:
                    live -= values[number].bytes
                    live_float32 -= values[number].float32_bytes
            crossing.append(live)
        self.budget = max(self.budget, 2.0 * self.working_bytes)
        self.starts = self._stages(crossing, self.budget / 2)

    def _stages(self, crossing: list[int], limit: float) -> list[int]:
        """First operation of each stage; stages end where little crosses."""
        values, starts, begin, saved = self.tape.values, [0], 0, 0.0
        sizes = [
            sum(values[number].bytes for number in operation.results if values[number].saved)
            for operation in self.tape.operations
        ]
        for place, size in enumerate(sizes):
            saved += size
            if saved > limit and place > begin:
                # Among the operations since the stage was half full, the latest of those after which least crosses.
                filled, first = saved - size, place - 1
                while first > begin and filled - sizes[first] >= limit / 2:
                    filled -= sizes[first]
                    first -= 1
                end = min(range(place - 1, first - 1, -1), key=lambda after: crossing[after])
                begin = end + 1
                starts.append(begin)
                saved = float(sum(sizes[begin : place + 1]))
        return starts

    def restarts_of_forward_pass(self) -> frozenset[int]:
        """Values that a forward pass of the same operations may hold, so that the first run again is saved."""
        last = len(self.starts) - 1
        needed, _ = self._needed(0, len(self.tape.operations))
        return frozenset(number for _, values in self._chosen(0, last, needed) for number in values)

    def use_held(self) -> None:
        """Take what the forward pass held as restarts, where it is complete."""
        needed, _ = self._needed(0, len(self.tape.operations))
        for stage in range(1, len(self.starts)):
            values = needed[self.starts[stage]]
            if values and all(number in self.tape.contents for number in values):
                self._restarts.append((stage, values))

    def restore(self, saved: Saved) -> torch.UntypedStorage:
        """Memory of a value that is not held; those of the same stage are held from now on, those of later ones not."""
        tape, number = self.tape, saved.reading.value
        made_at = tape.values[number].made_at
        assert made_at is not None
        stage = next(i for i in reversed(range(len(self.starts))) if self.starts[i] <= made_at)
        end = self.starts[stage + 1] if stage + 1 < len(self.starts) else len(tape.operations)
        needed, wanted = self._needed(0, end)
        # Graphs are gone through backwards as a rule; of a branch that comes later than that not all may be there.
        self._restarts = [
            (start, values)
            for start, values in self._restarts
            if start <= stage and needed[self.starts[start]] <= values
        ]
        self._hold_restarts()
        first = self._restarts[-1][0] if self._restarts else 0
        self._restarts += self._chosen(first, stage, needed)
        saved_here = {
            value
            for operation in tape.operations[self.starts[stage] : end]
            for value in operation.results
            if tape.values[value].saved
        }
        kept = self._hold_restarts()
        self._run([place for place in sorted(wanted) if place >= self.starts[first]], kept | saved_here)
        self._check(saved)
        return tape.contents[number]

    def _hold_restarts(self) -> frozenset[int]:
        """Hold the restarts' values, and none besides."""
        tape = self.tape
        tape.held = frozenset().union(*(values for _, values in self._restarts))
        for value in tape.contents.keys() - tape.held:
            del tape.contents[value]
        return tape.held

    def _check(self, saved: Saved) -> None:
        if saved.checksum is None:
            return
        again = saved.reading.of(self.tape.contents[saved.reading.value])
        if fingerprint(again) != saved.checksum:
            raise RuntimeError(
                "the network computed something else when its layers were run again for the gradient: pass "
                "checkpoint_layers=False to AttackedModel."
            )

    def _needed(self, begin: int, end: int) -> tuple[dict[int, set[int]], set[int]]:
        """What must cross the start of each stage for what is saved later, and which operations must run for it."""
        tape = self.tape
        need: set[int] = set()
        wanted: set[int] = set()
        crossing: dict[int, set[int]] = {}
        starts = set(self.starts)
        for place in reversed(range(begin, end)):
            operation = tape.operations[place]
            results = set(operation.results)
            if any(tape.values[value].saved for value in results) or results & need:
                wanted.add(place)
                need -= results
                need |= {value for value in operation.reads if tape.values[value].made_at is not None}
            if place in starts:
                crossing[place] = set(need)
        return crossing, wanted

    def _chosen(self, begin: int, last: int, crossing: dict[int, set[int]]) -> list[tuple[int, set[int]]]:
        """Restarts between two stages, as many as the budget has room for."""
        values = self.tape.values
        held = set().union(*(numbers for _, numbers in self._restarts))
        room = self.budget / 2 - sum(values[number].bytes for number in held)
        chosen = []
        while begin < last:
            between = range(begin + 1, last + 1)
            sizes = {
                stage: sum(values[number].bytes for number in crossing[self.starts[stage]] - held) for stage in between
            }
            typical = sum(sizes.values()) / len(sizes)
            count = int(min(len(between), room // typical)) if typical > 0 else len(between)
            if count < 1:
                fitting = [stage for stage in between if sizes[stage] <= room]
                if not fitting:
                    break
                begin = fitting[len(fitting) // 2]
            else:
                wanted = begin + restart_distance(last - begin + 1, count)
                fitting = [stage for stage in between if sizes[stage] <= room]
                if not fitting:
                    break
                begin = min(fitting, key=lambda stage: abs(stage - wanted))
            room -= sizes[begin]
            chosen.append((begin, crossing[self.starts[begin]]))
            held |= chosen[-1][1]
        return chosen

    def _run(self, wanted: list[int], hold: frozenset[int] | set[int]) -> None:
        """Run operations again; held values go to the tape's contents, others are freed after their last reading."""
        tape = self.tape
        last_read: dict[int, int] = {}
        for place in wanted:
            last_read.update(dict.fromkeys(tape.operations[place].reads, place))
        live: dict[int, torch.UntypedStorage] = {}
        device = next(iter(tape.sources.values())).device if tape.sources else None
        # At the level at which they were recorded: below autograd and autocast.
        with torch._C._AutoDispatchBelowAutograd(), torch._C._DisableAutocast():
            for place in wanted:
                operation = tape.operations[place]
                for value, content in _run_once(tape, operation, live, last_read, place):
                    if value in hold:
                        tape.contents[value] = content
                    if last_read.get(value, -1) > place:
                        live[value] = content
                for value in operation.reads:
                    if last_read[value] == place:
                        live.pop(value, None)
                if any(tape.values[value].bytes > _LARGE for value in operation.results):
                    give_back_excess(device)


def _run_once(
    tape: OperationTape,
    operation: Operation,
    live: dict[int, torch.UntypedStorage],
    last_read: dict[int, int],
    place: int,
) -> list[tuple[int, torch.UntypedStorage]]:
    """Values that an operation makes, with their memory."""
    overwritten = {operation.leaves[where].value for where, _ in operation.writes}
    memory: dict[int, torch.UntypedStorage] = {}
    for value in operation.reads:
        content = live.get(value)
        if content is None:
            content = tape.contents.get(value)
        if content is None:
            content = tape.sources[value]
        is_free = value in live and value not in tape.contents and last_read[value] == place
        memory[value] = content.clone() if value in overwritten and not is_free else content
    leaves = [leaf.of(memory[leaf.value]) if isinstance(leaf, Reading) else leaf for leaf in operation.leaves]
    args, kwargs = tree_unflatten(leaves, operation.spec)
    outputs = tree_leaves(operation.function(*args, **kwargs))
    made = [(value, outputs[where].untyped_storage()) for where, value in operation.makes]
    return made + [(value, memory[operation.leaves[where].value]) for where, value in operation.writes]
