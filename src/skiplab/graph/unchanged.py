"""A model that is as it was when a capture ends: its mode, its buffers and torch's random state."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.graph.rng import isolated_rng, outside_draws


@contextlib.contextmanager
def unchanged(model: nn.Module, *, train: bool) -> Iterator[None]:
    """While the block runs, the model is in training or evaluation mode, and what it draws is undone after."""
    modes = {module: module.training for module in model.modules()}
    try:
        with restored_buffers(model), restored_attributes(model), isolated_rng(), outside_draws():
            _set_mode(model, train)
            yield
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


@contextlib.contextmanager
def restored_buffers(model: nn.Module) -> Iterator[None]:
    """When the block ends, the buffers are the same tensors with the same values as before."""
    before = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in before:
                # equal bits need no write; inference-mode and expanded buffers allow none
                if not _same(buffer, value):
                    buffer.resize_(value.shape).copy_(value)  # an observer of quantization may have grown
                module._buffers[name] = buffer


def _same(a: Tensor, b: Tensor) -> bool:
    return a.is_meta or (a.shape == b.shape and torch.equal(a, b))


@contextlib.contextmanager
def restored_attributes(model: nn.Module) -> Iterator[None]:
    """When the block ends, the modules have the attributes that they had: no caches of the run."""
    # a scripted module keeps its compiled methods in its attributes
    plain = (module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule))
    before = [(module.__dict__, dict(module.__dict__)) for module in plain]
    caches = [
        (value, value.copy()) for _, then in before for value in then.values() if type(value) in (dict, list, set)
    ]
    try:
        yield
    finally:
        for now, then in before:
            for name in now.keys() - then.keys():
                del now[name]
            now.update({name: value for name, value in then.items() if now.get(name) is not value})
        for cache, then in caches:
            if cache != then if type(cache) is set else list(map(id, cache)) != list(map(id, then)):
                cache.clear()
                cache.extend(then) if type(cache) is list else cache.update(then)
