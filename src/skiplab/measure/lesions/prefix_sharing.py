"""Many changed networks in one pass: each forks off the whole network's pass where it starts to differ."""

from collections.abc import Iterator, Sequence

from skiplab.graph.interpreter import Execution
from skiplab.graph.program import Program
from skiplab.measure.lesions.resumable_pass import Part
from skiplab.measure.lesions.spec import Lesion, Patches


def forks(
    program: Program, part: Part, lesions: Sequence[Lesion], whole: Patches | None = None
) -> Iterator[tuple[int, Execution]]:
    """The pass of each lesioned network, by its index in `lesions`; finish it before taking the next.

    The whole network comes last, with the next index. The part before a lesion is computed once. Live values are
    those of the whole network at one place and of one fork.

    Args:
        program: the whole network.
        part: the samples.
        lesions: in any order.
        whole: patches of all networks, the whole one included; a lesion's own patches override them.
    """
    clean = Execution(program, part.given.args, part.given.kwargs, patches=whole)
    position = clean.plan.index
    order = sorted(range(len(lesions)), key=lambda place: position[lesions[place].start])
    for count, place in enumerate(order):
        part.tick(count)
        clean.run_until(lesions[place].start)
        yield place, clean.fork({**clean.patches, **lesions[place].patches(part)})
    part.tick(len(order))
    yield len(lesions), clean
