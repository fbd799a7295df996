"""Prove numerically that every skip connection is what its record says (DESIGN §2).

Values are recorded at a few random points in double precision. Then, skip by skip, only the shortcut is computed
again, everything that joins it held at its recorded value, and Jacobian-vector products from fork to merge show
what it does: whether it rearranges values, is a fixed linear map, or changes with the data.
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

    With S the merge's value as a function of the fork's along the shortcut alone, all else held, J its Jacobian
    and u random: `identity` when J u is a rearrangement of u, the same at all points; `resample` when J is the
    same at all points with no weight layer on the way; `projection` when it is with one; `gated` when, the gates
    held too, S is affine at each point and J differs between points. S(x + u) − S(x) = J u must hold in every case.
    What the way consists of is read off the graph, not off the record's or the finder's kinds of operator. A
    fused LSTM or GRU is compared with its cell written out as a gated sum.

    Costs one pass through the network a point, and a few evaluations of each shortcut.

    Args:
        program: captured in eval mode, with values.
        skips: as `find` found them in it.
        points: number of random inputs, at least 2; drawn in the likeness of the captured example.
        seed: of the points and directions. The random state of torch stays as it is.
        progress: called after each skip.

    Raises:
        StaleSkip: the skips are another program's.
        UsageError: the program has no values, or is a training graph.
    """
    skips.check(program)
    _check(program, points)
    verdicts: dict[int, Verdict] = {}
    with torch.no_grad(), isolated_rng(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network's own, and torch's about its forward derivatives
        passes = Passes(program, points, seed)
        for attempt in range(ATTEMPTS):
            left = {i: skip for i, skip in enumerate(skips) if i not in verdicts or verdicts[i].found is None}
            for i, verdict in passes.judged(left, attempt):
                verdicts[i] = verdict
                if progress is not None and not attempt:
                    progress(len(verdicts), len(skips))
    return Proof(tuple(verdicts[i] for i in range(len(skips))), points, TOLERANCE)


def _check(program: Program, points: int) -> None:
    if points < 2:
        raise UsageError(f"points={points}: what changes with the data shows at two points or more")
    program.require_inference("whose shortcuts dropout and batch statistics change from run to run")
    program.require_values("which a proof needs")
