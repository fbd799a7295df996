"""One pass through the network at each point, all in step; a skip is checked as soon as its merge is computed."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.fx import Node

from skiplab.analysis.skips import Skip
from skiplab.graph.program import Program
from skiplab.verification.jvp_check import NotFiniteError, check_shortcut
from skiplab.verification.proof import Verdict
from skiplab.verification.random_inputs import Doubled, double_weights, draw
from skiplab.verification.recurrent_check import Fused, check_fused
from skiplab.verification.shortcut_function import Graph, NoRouteError, Route, route

Way = Route | Fused


class Passes:
    """The passes of all attempts, with one graph, one set of weights in double precision, and one seed."""

    def __init__(self, program: Program, points: int, seed: int) -> None:
        self.program, self.points, self.seed = program, points, seed
        self.graph = Graph(program)
        self.weights = double_weights(program)

    def verdicts(self, skips: Mapping[int, Skip], attempt: int) -> Iterator[tuple[int, Verdict]]:
        """Pairs (key of the skip in `skips`, verdict), in the order of the merges."""
        ways: dict[int, Way] = {}
        for number, skip in skips.items():
            try:
                if (skip.location == "fused") != (skip.steps is not None):
                    raise NoRouteError("skips inside fused operators, and only they, have a number of time steps")
                ways[number] = route(self.graph, skip) if skip.location == "graph" else Fused(self.graph, skip)
            except NoRouteError as error:
                yield number, _unproved(skip, str(error))
        order = sorted(ways, key=lambda number: self.graph.position[ways[number].end])
        last = {node: number for number in order for node in ways[number].needed}
        executions = self._executions({node.name for node in last}, attempt) if order else []
        failure = ""
        for number in order:
            way, skip = ways[number], skips[number]
            failure = failure or _run_until(executions, way.end.name)
            yield number, _unproved(skip, failure) if failure else self._verdict(number, skip, way, executions)
            for node in way.needed:
                if last[node] == number:
                    for execution in executions:
                        execution.recorded.pop(node.name, None)

    def _executions(self, record: set[str], attempt: int) -> list[Doubled]:
        # a point does not depend on the number of points
        generators = [torch.Generator().manual_seed(self.seed + point) for point in range(self.points)]
        inputs = [draw(self.program.example, generator, attempt) for generator in generators]
        return [Doubled(self.program, point, record, self.weights) for point in inputs]

    def _verdict(self, number: int, skip: Skip, way: Way, executions: list[Doubled]) -> Verdict:
        points: list[dict[Node, Any]] = [{n: e.recorded[n.name] for n in way.needed} for e in executions]
        try:
            if isinstance(way, Fused):
                return check_fused(skip, way, points)
            generator = torch.Generator().manual_seed(self.seed + number)
            return check_shortcut(self.graph, skip, way, points, generator)
        except (NoRouteError, NotFiniteError) as error:
            return _unproved(skip, str(error))
        except Exception as error:  # an operator may not support this precision
            return _unproved(skip, f"cannot be computed again in float64: {_line(error)}")


def _run_until(executions: list[Doubled], end: str) -> str:
    """Runs each pass up to and including a node; returns why that fails, or ""."""
    for execution in executions:
        if end in execution.recorded:
            continue
        try:
            execution.value(end)
        except Exception as error:  # operators of the user's network may raise anything
            return f"the network cannot be run in float64: `{execution.reached}` fails: {_line(error)}"
    return ""


def _unproved(skip: Skip, reason: str) -> Verdict:
    return Verdict(skip.id, skip.shortcut, None, float("nan"), False, reason)


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
