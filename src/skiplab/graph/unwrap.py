"""The model inside what wraps it for compilation or parallel training."""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from skiplab.graph.torch_compat import OptimizedModule


def unwrap(model: nn.Module) -> nn.Module:
    """The model that `torch.compile`, `DataParallel` or `DistributedDataParallel` wraps; any other as it is."""
    while True:
        if isinstance(model, OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        else:
            return model
