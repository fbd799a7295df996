"""A program, its skips and its census as plain tables for drawing, with order and resolution."""

import pandas as pd

from skiplab.analysis.backtrace import shortcut_ops
from skiplab.analysis.path_census import Census
from skiplab.analysis.skips import Skip, Skips
from skiplab.graph.program import Program


def spine(program: Program, skips: Skips) -> pd.DataFrame:
    """One row an op, in order of execution: order, name, target, module, kind, resolution.

    Ops on shortcuts are left out: they are drawn as arcs.

    The resolution is the number of positions of the op's value to the power 1/d, with d the number of spatial
    dimensions of the network's input: the side of an image (14 for 14×14, and for a vision transformer's 196
    tokens too), the length of a sequence; 1 where only channels are left.
    """
    on_shortcuts = _on_shortcuts(program, skips)
    resolutions = _resolutions(program)
    rows = [
        (op.index, op.name, op.target, op.module, op.kind, resolution)
        for op, resolution in zip(program.ops, resolutions, strict=True)
        if op.index not in on_shortcuts
    ]
    return pd.DataFrame(rows, columns=["order", "name", "target", "module", "kind", "resolution"])


def _on_shortcuts(program: Program, skips: Skips) -> set[int]:
    """Ops between a fork and the operand at the end of its shortcut."""
    on_shortcuts: set[int] = set()
    for skip in skips.check(program).in_graph():
        ends = program.by_name[skip.operand].index, program.by_name[skip.fork].index
        on_shortcuts.update(op.index for op in shortcut_ops(program, *ends))
    return on_shortcuts


def placed(program: Program, skips: Skips) -> pd.DataFrame:
    """The table of skips with remarks, fork_order, merge_order, fork_resolution and merge_resolution."""
    resolutions = _resolutions(program)
    table = skips.check(program).table()
    table["remarks"] = pd.Series([remarks(skip) for skip in skips], dtype="str")
    for end in ("fork", "merge"):
        ops = [program.by_name[name] for name in table[end]]
        table[f"{end}_order"] = pd.Series([op.index for op in ops], dtype="int64")
        table[f"{end}_resolution"] = pd.Series([resolutions[op.index] for op in ops], dtype="float64")
    return table


def remarks(skip: Skip) -> str:
    """Properties that only some skips have: a long branch, scale factors, time steps."""
    notes = ["long"] if skip.long else []
    if skip.steps is not None:
        notes.append(f"{skip.steps} step{'' if skip.steps == 1 else 's'}")
    notes += [f"{factor}·x" for factor in map(_short, skip.shortcut_scale)]
    notes += [f"{factor}·F" for factor in map(_short, skip.branch_scale)]
    return ", ".join(notes)


def _short(factor: str) -> str:
    """A number in its shortest form; of a parameter's name, the last part."""
    try:
        return f"{float(factor):g}"
    except ValueError:
        return factor.rpartition(".")[2]


def non_skips(skips: Skips) -> pd.DataFrame:
    """One row per non-skip: reason, path, detail, source."""
    rows = [(each.reason, each.path, each.detail, each.source) for each in skips.non_skips]
    return pd.DataFrame(rows, columns=["reason", "path", "detail", "source"])


def histogram(census: Census) -> pd.DataFrame:
    """Paths by number of nonlinearities: nonlinearities, paths (decimal: they outgrow 64 bits), share."""
    rows = [(k, str(n), _share(n, census.paths)) for k, n in sorted(census.histogram.items())]
    return pd.DataFrame(rows, columns=["nonlinearities", "paths", "share"])


def _share(part: int, whole: int) -> float:
    """The quotient of two integers that may each be too large for a float."""
    return part * 10**18 // whole / 10**18


def witness(census: Census) -> pd.DataFrame:
    """The most linear path: step, name, target, module, kind."""
    rows = [(i, s.name, s.target, s.module, s.kind) for i, s in enumerate(census.most_linear.steps)]
    return pd.DataFrame(rows, columns=["step", "name", "target", "module", "kind"])


def _resolutions(program: Program) -> list[float]:
    dimensions = _spatial_dimensions(program)
    resolutions: list[float] = []
    for op, layout in zip(program.ops, program.layouts, strict=True):
        several = not op.shape and op.inputs  # results of one operator, which have a shape each
        resolutions.append(resolutions[op.inputs[0]] if several else float(layout.places ** (1 / dimensions)))
    return resolutions


def _spatial_dimensions(program: Program) -> int:
    shapes = [op.shape for op in program.ops if op.kind == "input"]
    return max((len(shape) - 2 for shape in shapes if len(shape) >= 4), default=1)
