"""The tape of one real run: each operator with its operands, in order of execution.

Tensors are known by identity. One that no operator made is looked up by its memory: `x.data` and a round trip through
numpy are a `detach` of the tensor that they share memory with; any other is a constant.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from skiplab.graph.ops import op_info
from skiplab.graph.torch_compat import OpOverload, WeakStorage, fresh_alias

aten = torch.ops.aten
Kind = Literal["state", "constant", "input", "call", "item"]
Frames = tuple[tuple[Any, int], ...]  # (code, line), the innermost first
Modules = Mapping[str, tuple[str, str]]  # key of a call -> (path, class), the outermost first

# Operators whose result Python reads: the values of the data then decide what runs.
_READS = frozenset((aten.item.default, aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default))


@dataclass(frozen=True, slots=True)
class Ref:
    """An operand: the value of the entry with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Form:
    """All of a tensor but its data.

    Attributes:
        shape, stride, offset: as torch gives them.
        dtype, device: as torch gives them.
        storage: a number for the memory that it shares with others.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device
    storage: int


@dataclass(slots=True, eq=False)
class Entry:
    """One value of the run.

    Attributes:
        kind: "call" of an operator, "item" of its tuple, or what the run starts from.
        target: the operator; the index of an item; the name of a parameter or buffer; the leaf of an input; the tensor
            of a constant.
        args, kwargs: operands, with `Ref` for tensors.
        form: the tensor's; None for tuples and for values that are no tensor.
        frames: the lines that led to the operator.
        modules: the module calls that led to it.
        tracked: whether gradients flow through it: not under `torch.no_grad`.
        varies: whether it depends on the inputs or on chance.
    """

    kind: Kind
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    form: Form | None = None
    frames: Frames = ()
    modules: Modules = field(default_factory=dict)
    tracked: bool = True
    varies: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the source an operator is called, as in `Entry`."""

    frames: Frames = ()
    modules: Modules = field(default_factory=dict)
    tracked: bool = True


class Tape:
    """The entries of a run, and which tensor is the value of which.

    Attributes:
        entries: in order of execution.
        reads: for each read of a value by Python, what was called and where; such a run holds for its data alone.
        leaks: for each constant of unknown origin, where it was first used.
        started: number of an entry -> the object that the run starts from. They must not be collected, or another
            tensor could get their id.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.reads: list[tuple[str, Frames]] = []
        self.leaks: list[Frames] = []
        self._numbers: dict[int, tuple[ReferenceType[Tensor], int]] = {}  # id of a tensor -> its entry
        self._memory: dict[int, tuple[WeakStorage, int]] = {}  # address of a storage -> number of its last entry
        self._addresses: dict[int, int] = {}  # address of data -> address of its storage
        self.started: dict[int, Any] = {}

    def start(self, kind: Kind, target: Any, tensor: Any, place: Place = Place()) -> int:
        """Adds what the run starts from: a parameter, a buffer, an input or a constant."""
        self.started[len(self.entries)] = tensor
        entry = Entry(kind, target, frames=place.frames, modules=place.modules, varies=kind == "input")
        return self._add(entry, tensor if isinstance(tensor, Tensor) else None)

    def operands(self, values: Any, place: Place, *, lifts: bool = False) -> Any:
        """The arguments of an operator with `Ref` for tensors.

        lifts: whether an unknown tensor is a constant written in the code, as in `torch.tensor(3)`.
        """
        if isinstance(values, Tensor):
            return Ref(self.number(values, place, lifts=lifts))
        if type(values) in (list, tuple):
            return [self.operands(each, place, lifts=lifts) for each in values]
        return values

    def record(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, place: Place) -> Any:
        """Adds an operator with its results; returns the results, each a tensor of its own.

        An operator that returns its operand itself (an inactive dropout, `contiguous`) gets another tensor on the same
        memory, since later readers of the result and of the operand could not be told apart.
        """
        mutable = isinstance(target, OpOverload) and target._schema.is_mutable
        varies = op_info(_name(target)).random or any(self.entries[n].varies for n in _numbers((args, kwargs)))
        entry = Entry("call", target, tuple(args), kwargs, None, place.frames, place.modules, place.tracked, varies)
        if isinstance(result, Tensor):
            result = self._separate(result, mutable)
            self._add(entry, result)
            return result
        number = self._add(entry, None)
        if varies and target in _READS:
            self.reads.append((_name(target), place.frames))
        if not isinstance(result, (tuple, list)):
            return result
        items = []
        for index, each in enumerate(result):
            item = self._separate(each, mutable) if isinstance(each, Tensor) else each
            if isinstance(item, Tensor):
                part = Entry(
                    "item", index, (Ref(number),), {}, None, place.frames, place.modules, place.tracked, varies
                )
                self._add(part, item)
            items.append(item)
        return items if type(result) is list else type(result)(items) if type(result) is tuple else result

    def number(self, tensor: Tensor, place: Place, *, lifts: bool = False) -> int:
        """The number of a tensor's entry; of a new one if no operator made the tensor."""
        number = self.known(tensor)
        if number is not None:
            return number
        shared = self._sharing(tensor)
        if shared is None:
            if not lifts:
                self.leaks.append(place.frames)
            return self.start("constant", tensor, tensor, place)
        return self._viewed(tensor, shared, place)

    def known(self, tensor: Tensor) -> int | None:
        """The number of the entry that made this tensor; None if none did, or if `.data` has since been replaced."""
        found = self._numbers.get(id(tensor))
        if found is None or found[0]() is not tensor:
            return None
        form, storage = self.entries[found[1]].form, self._storage(tensor)
        return found[1] if form is None or storage is None or form.storage == storage else None

    def rebind(self, tensor: Tensor, number: int) -> None:
        """From here on the tensor is the value of another entry."""
        self._numbers[id(tensor)] = ref(tensor), number
        self.entries[number].form = self._form(tensor, number)

    def read(self, name: str, tensor: Tensor, frames: Frames) -> None:
        """Notes that Python reads a tensor's values outside of torch."""
        number = self.known(tensor)
        number = self._sharing(tensor) if number is None else number
        if number is not None and self.entries[number].varies:
            self.reads.append((name, frames))

    def _add(self, entry: Entry, tensor: Tensor | None) -> int:
        number = len(self.entries)
        self.entries.append(entry)
        if tensor is not None:
            entry.form = self._form(tensor, number)
            self._numbers[id(tensor)] = ref(tensor), number
        return number

    def _separate(self, tensor: Tensor, mutable: bool) -> Tensor:
        return tensor if mutable or self.known(tensor) is None else fresh_alias(tensor)

    def _form(self, tensor: Tensor, number: int) -> Form | None:
        if tensor.layout is not torch.strided:
            return None
        storage = self._storage(tensor)
        if storage is None:
            storage = number
            memory = tensor.untyped_storage()
            self._memory[memory._cdata] = WeakStorage(memory), number
            if not tensor.is_meta:
                self._addresses[memory.data_ptr()] = memory._cdata
        shape, stride = tuple(tensor.shape), tensor.stride()
        return Form(shape, stride, int(tensor.storage_offset()), tensor.dtype, tensor.device, storage)

    def _storage(self, tensor: Tensor) -> int | None:
        """The number of a tensor's memory; None for memory not seen before."""
        if tensor.layout is not torch.strided:
            return None
        found = self._memory.get(tensor.untyped_storage()._cdata)
        return None if found is None or found[0].expired() else found[1]

    def _sharing(self, tensor: Tensor) -> int | None:
        """The number of the last entry whose memory an unknown tensor shares."""
        if tensor.layout is not torch.strided or not tensor.numel():
            return None
        storage = self._storage(tensor)
        if storage is None and not tensor.is_meta:  # numpy shares memory with another storage object
            address = self._addresses.get(tensor.untyped_storage().data_ptr())
            found = None if address is None else self._memory[address]
            storage = None if found is None or found[0].expired() else found[1]
        if storage is None:
            return None
        entries = reversed(list(enumerate(self.entries)))
        return next(number for number, entry in entries if entry.form is not None and entry.form.storage == storage)

    def _viewed(self, tensor: Tensor, number: int, place: Place) -> int:
        """Adds the steps from a known tensor to another one on its memory."""
        base, form = self.entries[number], self._form(tensor, number)
        assert base.form is not None
        assert form is not None
        last = self._step(aten.detach.default, (Ref(number),), base, place)
        if form.dtype != base.form.dtype:
            last = self._step(aten.view.dtype, (Ref(last), form.dtype), base, place)
        if (form.shape, form.stride, form.offset) != (base.form.shape, base.form.stride, base.form.offset):
            how = list(form.shape), list(form.stride), form.offset
            last = self._step(aten.as_strided.default, (Ref(last), *how), base, place)
        self._numbers[id(tensor)] = ref(tensor), last
        self.entries[last].form = form
        return last

    def _step(self, target: Any, args: tuple[Any, ...], base: Entry, place: Place) -> int:
        entry = Entry("call", target, args, {}, base.form, place.frames, place.modules, place.tracked, base.varies)
        return self._add(entry, None)


def _name(target: Any) -> str:
    return target._schema.name.split("::")[-1] if isinstance(target, OpOverload) else str(target)


def _numbers(values: Any) -> Iterator[int]:
    """The numbers of all operands, in lists and mappings too."""
    if type(values) is Ref:
        yield values.number
    elif isinstance(values, (list, tuple)):
        for each in values:
            yield from _numbers(each)
    elif isinstance(values, dict):
        yield from _numbers(list(values.values()))
