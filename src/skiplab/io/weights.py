"""Load weights into a model without running code from the file."""

from pathlib import Path

import torch
from torch import Tensor, nn

from skiplab.errors import DataError


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a safetensors file or a pickled state dict (read with `weights_only=True`) strictly."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}: check --weights") from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as weights: {error}") from error
    except Exception as error:  # unpickling may raise anything
        raise DataError(
            f"{path} holds more than tensors and is not unpickled, since that could run code: save it as "
            f"safetensors ({str(error).splitlines()[0]})"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path} holds no state dict: save `model.state_dict()`")
    try:
        model.load_state_dict({**_tied(model, state), **state})
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise DataError(f"{path} does not fit the model: {' '.join(lines)[:300]}") from error


def _tied(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that a file with each tensor once leaves out: further names of tied tensors."""
    own = model.state_dict(keep_vars=True)
    held = {id(own[name]): value for name, value in state.items() if name in own}
    return {name: held[id(tensor)] for name, tensor in own.items() if name not in state and id(tensor) in held}
