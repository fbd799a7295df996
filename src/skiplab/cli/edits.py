"""The edits that `skiplab edit` knows: which function each one is, and which options it takes."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from skiplab.errors import UsageError

if TYPE_CHECKING:
    from skiplab.graph.program import Program


@dataclass(frozen=True)
class Verb:
    """One edit, which is the function of its name in `skiplab.edit`.

    Attributes:
        takes: its own options, which are the function's parameters of the same names.
        needs: those without which it cannot be.
        seeded: whether it draws numbers.
        of: what it is given beside the program: skips (of which --skips chooses), places, batches, or nothing.
    """

    takes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    seeded: bool = False
    of: Literal["skips", "places", "batches", "nothing"] = "skips"


WHERE = ("every", "placement", "start_at", "end_at")  # options of `insert` that say where

VERBS: Mapping[str, Verb] = {
    "remove-shortcut": Verb(),
    "remove-branch": Verb(),
    "scale": Verb(("shortcut", "branch", "learn")),
    "rezero": Verb(),
    "skip-init": Verb(),
    "layer-scale": Verb(("start",)),
    "average": Verb(),
    "drop-path": Verb(("p", "linear"), needs=("p",)),
    "gate": Verb(("bias", "form"), seeded=True),
    "highway": Verb(("bias",), seeded=True),
    "reorder": Verb(("order",), needs=("order",)),
    "insert": Verb((*WHERE, "fit", "factor"), seeded=True, of="places"),
    "to-pre-activation": Verb(("norm",)),
    "concat-to-add": Verb(),
    "add-to-concat": Verb(),
    "fold": Verb(of="nothing"),
    "recalibrate": Verb(("data",), needs=("data",), of="batches"),
}
_PARAMETERS = {"fit": "shortcut", "factor": "scale"}  # where an option has not the name of the function's parameter


def chosen(edit: str, given: Mapping[str, Any], seed: int) -> tuple[Callable[..., "Program"], dict[str, Any]]:
    """The function, which is loaded, and its keyword arguments.

    given: the options, as `fitting` has let them through.
    """
    function = getattr(importlib.import_module("skiplab.edit"), edit.replace("-", "_"))
    own = {_PARAMETERS.get(name, name): value for name, value in given.items() if name not in (*WHERE, "data")}
    return function, {**own, **({"seed": seed} if VERBS[edit].seeded else {})}


def fitting(edit: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; UsageError where they are not the edit's. Imports nothing that takes time.

    options: all that there are, None for those that were not given.
    """
    if edit not in VERBS:
        raise UsageError(f"there is no edit `{edit}`: EDIT is one of {', '.join(VERBS)}")
    verb = VERBS[edit]
    given = {name: value for name, value in options.items() if value is not None}
    own = ", ".join(map(_flag, verb.takes))
    for name in given:
        if name not in verb.takes:
            raise UsageError(f"{_flag(name)} is no option of {edit}, which takes {own or 'none of its own'}")
    for name in verb.needs:
        if name not in given:
            raise UsageError(f"{edit} needs {_flag(name)}")
    if ("start_at" in given) != ("end_at" in given) or ("start_at" in given and {"every", "placement"} & given.keys()):
        raise UsageError("--from and --to go together, and say in place of --every and --placement where")
    return given


def _flag(name: str) -> str:
    return _FLAGS.get(name, f"--{name}")


_FLAGS = {"linear": "--linear/--constant", "norm": "--norm/--no-norm", "start_at": "--from", "end_at": "--to"}


def order_of(text: str | None) -> list[int] | None:
    """ "0,2,1" as numbers."""
    if text is None:
        return None
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise UsageError(f"--order {text}: write the blocks' numbers with commas, such as 0,2,1") from None
