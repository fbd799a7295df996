"""Runs a model once and records every operator on a `Tape`, below autograd and above the kernels.

There, operators arrive as the code calls them (`linear`, `layer_norm`, `lstm`), before torch takes them apart, and
whatever calls them is seen: scripts, custom functions, any Python.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from skiplab.errors import ModelError
from skiplab.graph.outputs import flatten_output
from skiplab.graph.rng import outside_draws
from skiplab.graph.source_map import is_in_network
from skiplab.graph.tape import Frames, Modules, Place, Ref, Tape
from skiplab.graph.torch_compat import TorchDispatchMode, below_autograd, exporting, out_of_place, pytree

aten = torch.ops.aten
_OWN = os.path.dirname(__file__) + os.sep

# `torch.tensor(…)` lifts a constant and detaches it in place, and `device` is asked of every tensor that is printed.
_LIFTS = frozenset((aten.lift_fresh.default, aten.lift_fresh_copy.default))
_NOT_RECORDED = frozenset((torch.ops.prim.device.default, aten._has_compatible_shallow_copy_type.default))
_LEAVE_TORCH = ("numpy", "tolist", "__array__")  # methods that give values away without an operator


@dataclass(frozen=True, eq=False)
class Recording:
    """One run of a model.

    Attributes:
        tape: the operators.
        returned: the model's output, flattened, with a `Ref` for each tensor.
        spec: how to give the output its form again.
        output: the model's output.
        draws: names of the random generators outside torch that the run used.
    """

    tape: Tape
    returned: list[Any]
    spec: pytree.TreeSpec
    output: Any
    draws: tuple[str, ...]


def record_run(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Recording:
    """Runs the model on these inputs and records the run. Whatever the model raises is raised."""
    tape = Tape()
    for kind, tensors in (("parameter", model.named_parameters), ("buffer", model.named_buffers)):
        for name, tensor in tensors(remove_duplicate=False):
            tape.start("state", (kind, name), tensor)
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, dict(kwargs)))  # the model may overwrite them
    leaves = pytree.tree_leaves((args, kwargs))
    for leaf in leaves:
        tape.start("input", leaf, leaf)
    on_meta = any(isinstance(t, Tensor) and t.is_meta for t in (*model.parameters(), *model.buffers(), *leaves))
    places = _Places(model)
    with contextlib.ExitStack() as stack:
        draws = stack.enter_context(outside_draws())
        for context in (
            _eager_settings(on_meta),
            _reads_noted(tape, places),
            places.following_calls(),
            _functions_tracked(places),
            torch.enable_grad(),
            below_autograd(),
            _Recorder(tape, places),
        ):
            stack.enter_context(context)
        output = model(*args, **kwargs)
        values, spec = flatten_output(output)
        place = Place()
        returned = [Ref(tape.number(each, place)) if isinstance(each, Tensor) else each for each in values]
    return Recording(tape, returned, spec, output, tuple(draws))


class _Recorder(TorchDispatchMode):
    """Records each operator that the model runs."""

    supports_higher_order_operators = True

    def __init__(self, tape: Tape, places: "_Places") -> None:
        super().__init__()
        self.tape, self.places = tape, places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.HigherOrderOperator):
            return self._higher_order(func, args, kwargs)
        if func in _NOT_RECORDED or func.namespace == "profiler":
            return func(*args, **kwargs)
        if func is aten.detach_.default:
            return self._detach(args[0])
        if isinstance(kwargs.get("out"), Tensor):
            return self._into(func, args, kwargs)
        place = self.places.current()
        operands = self.tape.operands(args, place, lifts=func in _LIFTS)
        named = {name: self.tape.operands(each, place) for name, each in kwargs.items() if each is not None}
        # replayed with gradients, a lifted constant would be a view, which an in-place operator refuses
        target = aten.lift_fresh_copy.default if func is aten.lift_fresh.default else func
        return self.tape.record(target, operands, named, func(*args, **kwargs), place)

    def _detach(self, tensor: Tensor) -> Tensor:
        """`x.detach_()`: from here on the name holds the detached value."""
        place = self.places.current()
        number = self.tape.number(tensor, place)
        if self.tape.entries[number].varies:
            self.tape.record(aten.detach.default, [Ref(number)], {}, tensor.view(tensor.shape), place)
            self.tape.rebind(tensor, len(self.tape.entries) - 1)
        return tensor

    def _into(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """`add(x, y, out=z)` as `z.copy_(add(x, y))`."""
        out = kwargs.pop("out")
        pure, place = out_of_place(func), self.places.current()
        if pure is None:
            raise ModelError(f"`{func}` writes into `out=`, and has no form without it")
        result = self.__torch_dispatch__(pure, (), args, kwargs)
        if out.shape != result.shape:
            out.resize_(result.shape)
            out.copy_(result)
            self.tape.rebind(out, self.tape.number(result, place))
            return out
        return self.__torch_dispatch__(aten.copy_.default, (), (out, result))

    def _higher_order(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """A conditional runs the branch that the data choose; others run their plain form."""
        with self:
            if func.__name__ == "cond":
                chosen, if_true, if_false, operands = args
                return (if_true if bool(chosen) else if_false)(*operands)
            return func.py_kernels[torch._C.DispatchKey.CompositeExplicitAutograd](*args, **kwargs)


class _Places:
    """The module calls that are open, and the lines from which an operator is called."""

    def __init__(self, model: nn.Module) -> None:
        self.paths: dict[int, list[str]] = {}  # id of a module -> all its paths
        for path, module in model.named_modules(remove_duplicate=False):
            self.paths.setdefault(id(module), []).append(path)
        self.calls: dict[str, int] = {}
        self.stack: list[Modules] = [{}]
        self.outer_grad: list[bool] = []  # whether gradients flow around each open autograd function
        self._is_user: dict[Any, bool] = {}

    def current(self) -> Place:
        """The place of the operator that runs now."""
        tracked = self.outer_grad[0] if self.outer_grad else torch.is_grad_enabled()
        return Place(self.frames(), self.stack[-1], tracked)

    def frames(self) -> Frames:
        """The lines that led here, the innermost first, without those of torch's machinery."""
        found, frame, is_user = [], sys._getframe(2), self._is_user
        while frame is not None:
            code = frame.f_code
            if code is _BOTTOM:
                break
            own = is_user.get(code)
            if own is None:
                own = is_user[code] = is_in_network(code.co_filename) and not code.co_filename.startswith(_OWN)
            if own:
                found.append((code, frame.f_lineno))
            frame = frame.f_back  # type: ignore[assignment]
        return tuple(found)

    @contextlib.contextmanager
    def following_calls(self) -> Iterator[None]:
        """Notes each call of a module. Hooks would not see a call that fails half-way."""
        original = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.stack.append(self._entered(module))
            # torch runs the Python of a scripted module while it exports
            scripted = isinstance(module, torch.jit.ScriptModule)
            try:
                with exporting(state=False) if scripted else contextlib.nullcontext():
                    return original(module, *args, **kwargs)
            finally:
                self.stack.pop()

        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]

    def _entered(self, module: nn.Module) -> Modules:
        paths = self.paths.get(id(module))
        if paths is None:  # made by `forward`
            return self.stack[-1]
        path = paths[0]
        if len(paths) > 1:  # several modules share this one: it is the caller's
            caller = [("", ""), *self.stack[-1].values()][-1][0]
            path = next((each for each in paths if each.startswith(f"{caller}.")), path)
        number = self.calls[path] = self.calls.get(path, -1) + 1
        kind = type(module)
        key = f"{path}@{number}" if number else path
        return {**self.stack[-1], key: (path, f"{kind.__module__}.{kind.__qualname__}")}


_BOTTOM = record_run.__code__


@contextlib.contextmanager
def _functions_tracked(places: _Places) -> Iterator[None]:
    """The `forward` of an autograd function runs without gradients, though they flow through the function."""
    function = torch.autograd.Function
    original = function.__dict__["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        places.outer_grad.append(torch.is_grad_enabled())
        try:
            return original.__get__(None, cls)(*args, **kwargs)
        finally:
            places.outer_grad.pop()

    function.apply = classmethod(apply)  # type: ignore[assignment]
    try:
        yield
    finally:
        function.apply = original  # type: ignore[method-assign]


@contextlib.contextmanager
def _eager_settings(on_meta: bool) -> Iterator[None]:
    """No fused path that hides the parts of a Transformer's layer, no compilation, no garbage collection."""
    fast, collects = torch.backends.mha.get_fastpath_enabled(), gc.isenabled()
    torch.backends.mha.set_fastpath_enabled(False)
    gc.disable()
    try:
        device = torch.device("meta") if on_meta else contextlib.nullcontext()
        with torch.compiler.set_stance("force_eager"), device, exporting():  # so that models do not look at masks
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        if collects:
            gc.enable()


@contextlib.contextmanager
def _reads_noted(tape: Tape, places: _Places) -> Iterator[None]:
    """Notes calls of tensor methods that give values to numpy or Python."""
    originals = {name: Tensor.__dict__.get(name) for name in _LEAVE_TORCH}

    def noting(name: str, method: Callable[..., Any], tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        tape.read(name, tensor, places.frames())
        return method(tensor, *args, **kwargs)

    for name in _LEAVE_TORCH:
        method = partial(noting, name, getattr(Tensor, name))
        setattr(Tensor, name, lambda tensor, *args, method=method, **kwargs: method(tensor, *args, **kwargs))
    try:
        yield
    finally:
        for name, original in originals.items():
            if original is None:
                delattr(Tensor, name)
            else:
                setattr(Tensor, name, original)
