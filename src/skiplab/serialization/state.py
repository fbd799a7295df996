"""The tensors of a network, and the files that hold them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from skiplab.errors import OutputError


@dataclass(frozen=True)
class Entry:
    """One name in a module.

    Attributes:
        name: dotted name.
        kind: "parameter", "frozen parameter", "buffer", or "constant" for a tensor that state dicts do not hold.
        tensor: the tensor.
        same: an earlier name of the same tensor.
    """

    name: str
    kind: str
    tensor: Tensor
    same: str | None

    @property
    def row(self) -> str:
        """'("parameter", "float32", (16, 3, 3, 3))', or '("parameter", "is", "embed.weight")'."""
        if self.same is not None:
            return f'("{self.kind}", "is", "{self.same}")'
        return f'("{self.kind}", "{str(self.tensor.dtype).removeprefix("torch.")}", {tuple(self.tensor.shape)})'


def entries(module: nn.Module) -> list[Entry]:
    """All tensors of a module; those of its state dict first, tensors tied to them later."""
    kept = module.state_dict(keep_vars=True)
    buffers = dict(module.named_buffers(remove_duplicate=False))
    first: dict[int, str] = {}
    found = []
    for name, tensor in {**kept, **{name: buffers[name] for name in buffers if name not in kept}}.items():
        same = first.setdefault(id(tensor), name)
        found.append(Entry(name, _kind(name, tensor, kept), tensor, None if same == name else same))
    return found


def _kind(name: str, tensor: Tensor, kept: Mapping[str, Tensor]) -> str:
    if isinstance(tensor, nn.Parameter):
        return "parameter" if tensor.requires_grad else "frozen parameter"
    return "buffer" if name in kept else "constant"


def of_state(found: Iterable[Entry]) -> dict[str, Tensor]:
    """The tensors of the state dict, each once."""
    return {each.name: each.tensor for each in found if each.kind != "constant" and each.same is None}


def constants(found: Iterable[Entry]) -> dict[str, Tensor]:
    """The tensors that only the code reads, each once."""
    return {each.name: each.tensor for each in found if each.kind == "constant" and each.same is None}


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file; OutputError for tensors that such a file cannot hold."""
    from safetensors.torch import save_file

    path.touch()
    rights = (
        path.stat().st_mode
    )  # permissions of new files here; safetensors' own files are readable only by their owner
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path)
        path.chmod(rights)
    except (ValueError, KeyError, RuntimeError, AttributeError) as error:
        kinds = ", ".join(sorted({f"{tensor.layout} {tensor.dtype}" for tensor in plain.values()}))
        raise OutputError(f"safetensors cannot hold all of {kinds} ({error}): use the format pt2") from error
