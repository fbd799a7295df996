"""Prove numerically that every skip connection is what its record says (DESIGN §2).

The network runs at a few random points in double precision. Then, for each skip, only the shortcut is computed again,
with all other values held constant. Jacobian-vector products from fork to merge show whether the shortcut rearranges
values, is a constant linear map, or depends on the data.
"""

import warnings
from collections.abc import Callable

import torch

from skiplab.analysis.skips import Skips
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.graph.rng import isolated_rng
from skiplab.verification.jvp_check import TOLERANCE
from skiplab.verification.point_passes import Passes
from skiplab.verification.proof import Proof, Verdict, proof_json
from skiplab.verification.random_inputs import ATTEMPTS

__all__ = ["Proof", "Verdict", "proof_json", "prove"]

Progress = Callable[[int, int], None]  # (skips done, of how many)


def prove(program: Program, skips: Skips, *, points: int = 3, seed: int = 0, progress: Progress | None = None) -> Proof:
    """Checks every skip's shortcut by Jacobian-vector products in float64 at random points.

    Let S be the merge's value as a function of the fork's value along the shortcut, with all other values constant, J
    its Jacobian, and u random. S(x + u) − S(x) = J u must hold, and the shortcut is

    - `identity`: J u is a rearrangement of u, the same at all points;
    - `resample`: J is the same at all points, and no weight layer is on the shortcut;
    - `projection`: J is the same at all points, and a weight layer is on the shortcut;
    - `gated`: with the gates constant too, S is affine at each point, and J differs between points.

    The ops on the shortcut are taken from the graph, not from the record or the finder. A fused LSTM or GRU is compared
    with its cell written as a gated sum.

    Costs one pass through the network per point, and a few evaluations of each shortcut.

    Args:
        program: captured in eval mode, with values.
        skips: as `find` found them in it.
        points: number of random inputs, at least 2; they resemble the captured example.
        seed: seed of points and directions. The random state of torch is not changed.
        progress: called after each skip.

    Raises:
        StaleSkip: the skips are another program's.
        UsageError: the program has no values, or is a training graph.
    """
    skips.check(program)
    _check(program, points)
    verdicts: dict[int, Verdict] = {}
    with torch.no_grad(), isolated_rng(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the network, and from torch about forward derivatives
        passes = Passes(program, points, seed)
        for attempt in range(ATTEMPTS):
            left = {i: skip for i, skip in enumerate(skips) if i not in verdicts or verdicts[i].found is None}
            for i, verdict in passes.verdicts(left, attempt):
                verdicts[i] = verdict
                if progress is not None and not attempt:
                    progress(len(verdicts), len(skips))
    return Proof(tuple(verdicts[i] for i in range(len(skips))), points, TOLERANCE)


def _check(program: Program, points: int) -> None:
    if points < 2:
        raise UsageError(f"points={points}: a proof compares points, so give at least 2")
    program.require_inference("whose shortcuts dropout and batch statistics change from run to run")
    program.require_values("which a proof needs")
