# SPDX-License-Identifier: Apache-2.0
"""The operations of a forward pass, written down so that any value in it can be computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves

from monai_adversarial.utils.allocator import give_back_excess

__all__ = ["Operation", "OperationTape", "Reading", "Saved", "Value", "fingerprint"]

# What these return is not determined by what they read: the memory is written later, perhaps by code that no
# dispatcher sees.
_UNDETERMINED = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "resize_", "set_")
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_FLOAT32_BYTES = 4
_NUMBERS_AT_ONCE = 2**18
# Results of an operation after which it is looked whether the heap has grown.
_LARGE = 4 * 2**20


@dataclass(frozen=True)
class Reading:
    """A tensor as an operation reads it: which value its memory holds, and how it lies there."""

    value: int
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def of(self, storage: torch.UntypedStorage) -> torch.Tensor:
        """The tensor, in memory that holds the value."""
        empty = torch.empty(0, dtype=self.dtype, device=storage.device)
        return empty.set_(storage, self.offset, self.size, self.stride)


@dataclass
class Value:
    """What a piece of memory holds from one writing to the next.

    Attributes:
        made_at: number of the operation that writes it; None for sources, which are not computed again: inputs,
            weights, random numbers.
        bytes: size of the memory.
        float32_bytes: its size if its numbers were float32.
        saved: saved tensors that wait for it in the graph.
    """

    made_at: int | None
    bytes: int
    float32_bytes: int
    saved: int = 0


@dataclass
class Operation:
    """One operation: its arguments with a ``Reading`` for each tensor, and the values that it makes in new memory
    (by the place among its outputs) or by writing into a memory (by the place among its arguments)."""

    function: Callable[..., Any]
    leaves: list[Any]
    spec: TreeSpec
    makes: list[tuple[int, int]]
    writes: list[tuple[int, int]]

    @property
    def reads(self) -> set[int]:
        """The values that it needs."""
        return {leaf.value for leaf in self.leaves if isinstance(leaf, Reading)}

    @property
    def results(self) -> list[int]:
        """The values that it makes or writes."""
        return [value for _, value in (*self.makes, *self.writes)]


@dataclass(eq=False)
class Saved:
    """What the graph holds instead of a tensor. The value is waited for as long as this lives."""

    tape: OperationTape
    reading: Reading
    checksum: int | None

    def __post_init__(self) -> None:
        self.tape.values[self.reading.value].saved += 1

    def __del__(self) -> None:
        self.tape.release(self.reading.value)


class OperationTape:
    """What was computed, in order, and the memory that is held of it.

    Args:
        limit: bytes of saved values that are held; where they become more, all are dropped, to be computed again.
        restore: called for a saved tensor whose value is not held; returns memory that holds it.
        held: numbers of values to hold all the same, for restarts.
        checked: note a checksum of each saved tensor, for ``restore``'s use.

    Attributes:
        operations, values: the tape.
        contents: memory of values that are held.
        sources: memory of sources that operations read.
        saved_bytes: size of all saved values, each counted once.
    """

    def __init__(
        self,
        limit: float,
        restore: Callable[[Saved], torch.UntypedStorage],
        held: frozenset[int] = frozenset(),
        checked: bool = False,
    ) -> None:
        self.limit, self.restore, self.held, self.checked = limit, restore, held, checked
        self.operations: list[Operation] = []
        self.values: list[Value] = []
        self.contents: dict[int, torch.UntypedStorage] = {}
        self.sources: dict[int, torch.UntypedStorage] = {}
        self.saved_bytes = 0
        # Where values are now. Weak references keep the addresses from being used again.
        self._current: dict[int, tuple[StorageWeakRef, int]] = {}
        self._passive = self._paused = False
        self._dropped = False

    @property
    def recomputes(self) -> bool:
        """Whether the graph is larger than the limit, so that saved values are not held."""
        return self.saved_bytes > self.limit

    def signature(self) -> tuple[Any, ...]:
        """Equal for tapes whose operations, values and sizes are the same, so that their numbers mean the same."""
        return (
            tuple((operation.function, *operation.results) for operation in self.operations),
            tuple((value.made_at, value.bytes) for value in self.values),
        )

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Write down what this thread computes inside, and let the graph save by way of the tape."""
        with saved_tensors_hooks(_Save(self), _restored), _Recorder(self):
            yield
        self._current.clear()

    def save(self, tensor: torch.Tensor) -> torch.Tensor | Saved:
        """What the graph is to hold for a tensor."""
        if self._passive or not _is_simple(tensor):
            return tensor.detach()
        reading = self._reading(tensor)
        value = self.values[reading.value]
        if value.made_at is None:
            return tensor.detach()
        if not value.saved:
            self.saved_bytes += value.bytes
        saved = Saved(self, reading, self._checksum(tensor) if self.checked else None)
        if not self.recomputes:
            self.contents[reading.value] = tensor.untyped_storage()
        elif not self._dropped:
            self._dropped = True
            self.contents = {number: kept for number, kept in self.contents.items() if number in self.held}
        return saved

    def _checksum(self, tensor: torch.Tensor) -> int:
        self._paused = True  # it is no operation of the network
        try:
            return fingerprint(tensor.detach())
        finally:
            self._paused = False

    def release(self, number: int) -> None:
        """One saved tensor less waits for a value."""
        self.values[number].saved -= 1
        if not self.values[number].saved and number not in self.held:
            self.contents.pop(number, None)

    def record(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation and write it down."""
        if self._paused:
            return function(*args, **kwargs)
        mutated = _mutated(function, args, kwargs)
        written = {tensor.untyped_storage()._cdata for tensor in mutated if _is_simple(tensor)}
        for address in written & self._current.keys():
            self._keep_apart(self._current[address][1])
        leaves, spec = tree_flatten((args, kwargs))
        if not self._passive and all(_is_simple(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)):
            leaves = [self._read(leaf, written) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
            results = function(*args, **kwargs)
            outputs = tree_leaves(results)
            if all(_is_simple(output) for output in outputs if isinstance(output, torch.Tensor)):
                self._write_down(Operation(function, leaves, spec, [], []), outputs, mutated)
                return results
        else:
            results = function(*args, **kwargs)
        # Sparse, opaque or complex memory, subclasses: from here on everything is saved as it is.
        self._passive = True
        return results

    def _write_down(self, operation: Operation, outputs: list[Any], mutated: list[torch.Tensor]) -> None:
        numbers = [self._current[tensor.untyped_storage()._cdata][1] for tensor in mutated]
        # What is written into a source stays one: other parts of it may have come from anywhere.
        is_determined = _is_determined(operation) and all(self.values[n].made_at is not None for n in numbers)
        made_at = len(self.operations) if is_determined else None
        for number, tensor in zip(numbers, mutated, strict=True):
            place = next(
                place
                for place, leaf in enumerate(operation.leaves)
                if isinstance(leaf, Reading) and leaf.value == number
            )
            operation.writes.append((place, self._new_value(tensor, made_at)))
        for place, output in enumerate(outputs):
            if isinstance(output, torch.Tensor) and output.untyped_storage()._cdata not in self._current:
                operation.makes.append((place, self._new_value(output, made_at)))
        if operation.results:  # views make nothing
            self.operations.append(operation)
            if sum(self.values[number].bytes for number in operation.results) > _LARGE:
                give_back_excess(next((output.device for output in outputs if isinstance(output, torch.Tensor)), None))

    def _keep_apart(self, number: int) -> None:
        """What is held must not change with memory that is written in place."""
        for kept in (self.contents, self.sources):
            if number in kept:
                kept[number] = kept[number].clone()

    def _read(self, tensor: torch.Tensor, written: set[int]) -> Reading:
        reading, storage = self._reading(tensor), tensor.untyped_storage()
        if self.values[reading.value].made_at is None and storage._cdata not in written:
            self.sources[reading.value] = storage
        return reading

    def _reading(self, tensor: torch.Tensor) -> Reading:
        known = self._current.get(tensor.untyped_storage()._cdata)
        number = self._new_value(tensor, None) if known is None else known[1]
        return Reading(number, tensor.dtype, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def _new_value(self, tensor: torch.Tensor, made_at: int | None) -> int:
        storage, number = tensor.untyped_storage(), len(self.values)
        size = storage.nbytes()
        self.values.append(Value(made_at, size, size * _FLOAT32_BYTES // tensor.element_size()))
        self._current[storage._cdata] = (StorageWeakRef(storage), number)
        if made_at is not None and number in self.held:
            self.contents[number] = storage
        return number


class _Save:
    """The hook that saves by way of a tape."""

    only_watches = True

    def __init__(self, tape: OperationTape) -> None:
        self.tape = tape

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor | Saved:
        return self.tape.save(tensor)


def _restored(saved: torch.Tensor | Saved) -> torch.Tensor:
    if isinstance(saved, torch.Tensor):
        return saved
    content = saved.tape.contents.get(saved.reading.value)
    return saved.reading.of(saved.tape.restore(saved) if content is None else content)


class _Recorder(TorchDispatchMode):
    def __init__(self, tape: OperationTape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.tape.record(func, args, kwargs or {})


def _is_simple(tensor: torch.Tensor) -> bool:
    """Whether a tensor is nothing but numbers in memory."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and not (tensor.is_complex() or tensor.is_neg() or tensor.is_quantized)
    )


def _mutated(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The arguments that an operation writes into."""
    if not function._schema.is_mutable:
        return []
    found: dict[int, torch.Tensor] = {}
    for place, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            for tensor in tree_leaves(given):
                if isinstance(tensor, torch.Tensor):
                    found.setdefault(tensor.untyped_storage()._cdata, tensor)
    return list(found.values())


def _is_determined(operation: Operation) -> bool:
    """Whether an operation gives the same again for the same arguments."""
    function: Any = operation.function
    if function._schema.name.removeprefix("aten::") in _UNDETERMINED:
        return False
    if {torch.Tag.nondeterministic_seeded, torch.Tag.nondeterministic_bitwise} & set(function.tags):
        return False
    # Normalization in training mode also counts, in buffers that not every operation declares.
    args, kwargs = torch.utils._pytree.tree_unflatten(operation.leaves, operation.spec)
    for place, argument in enumerate(function._schema.arguments):
        if argument.name in ("train", "training"):
            return not (args[place] if place < len(args) else kwargs.get(argument.name))
    return True


def fingerprint(tensor: torch.Tensor) -> int:
    """A checksum of a tensor's bits. A GPU is waited for."""
    dense = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    flat = tensor.as_strided((tensor.numel(),), (1,), 0) if dense else tensor.reshape(-1)
    bits = flat.view(_INTEGERS[tensor.element_size()])
    # Sums of integers are computed in a copy of twice the size. Large copies between the network's own memory would
    # leave holes in the heap that fit nothing.
    parts = bits.split(_NUMBERS_AT_ONCE) if tensor.device.type == "cpu" else [bits]
    return sum(int(part.sum(dtype=torch.int64)) for part in parts) % 2**64
