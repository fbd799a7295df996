"""A model that is as it was when a capture ends: its mode, buffers and attributes, and all random states."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.graph.rng import isolated_rng, outside_draws

_MODULE = frozenset(nn.Module().__dict__) - {"training"}  # attributes of every module, which `forward` leaves alone


class Snapshot:
    """The buffers and attributes of a model as they are now."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        # a scripted module keeps its compiled methods in its attributes
        plain = [module.__dict__ for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
        self._attributes = [(attributes, dict(attributes)) for attributes in plain]
        self._containers = [
            (value, value.copy())
            for attributes in plain
            for name, value in attributes.items()
            if name not in _MODULE and type(value) in (dict, list, set)
        ]

    def restore(self) -> None:
        """Makes the buffers and attributes what they were: the same objects with the same values."""
        for now, then in self._attributes:
            for name in now.keys() - then.keys():
                del now[name]
            now.update({name: value for name, value in then.items() if now.get(name) is not value})
        for now, then in self._containers:
            _refill(now, then)
        with torch.no_grad():
            for module, name, buffer, value in self._buffers:
                # equal bits need no write; inference-mode and expanded buffers allow none
                if not _same(buffer, value):
                    buffer.resize_(value.shape).copy_(value)  # an observer of quantization may have grown
                module._buffers[name] = buffer


@contextlib.contextmanager
def unchanged(model: nn.Module, *, train: bool) -> Iterator[Snapshot]:
    """While the block runs, the model is in training or evaluation mode; afterwards all is as before.

    Yields:
        The state before the block, to restore between runs in it.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        _set_mode(model, train)
        snapshot = Snapshot(model)
        try:
            with isolated_rng(), outside_draws():
                yield snapshot
        finally:
            snapshot.restore()
    finally:
        for module, mode in modes.items():
            module.training = mode


def _set_mode(model: nn.Module, train: bool) -> None:
    """`model.train`, but not for a program from `torch.export.load`: its mode is fixed in its operators."""
    try:
        model.train(train)
    except NotImplementedError:
        if train:
            raise UsageError("an exported program has no training graph: export it in training mode") from None


def _same(a: Tensor, b: Tensor) -> bool:
    return a.is_meta or (a.shape == b.shape and torch.equal(a, b))


def _refill(now: Any, then: Any) -> None:
    """Gives a container its former contents; dictionaries and lists are compared by the identity of their values."""
    changed = now != then if isinstance(now, set) else [*map(id, now)] != [*map(id, then)]
    if isinstance(now, dict):
        changed = changed or [*map(id, now.values())] != [*map(id, then.values())]
    if changed:
        now.clear()
        now.extend(then) if isinstance(now, list) else now.update(then)
