import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.parametrizations import weight_norm

import skiplab
from cases import captured
from networks import Block, Net
from oracles.lesioned import Normed, images, mean_loss, swapped
from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import validate_batches
from skiplab.errors import UsageError
from skiplab.graph.interpreter import run
from skiplab.graph.program import Program
from skiplab.measure import lesion
from skiplab.measure.lesions.prefix_sharing import forks
from skiplab.measure.lesions.reorder import exchangeable_pairs, reorderings, weights_read
from skiplab.measure.lesions.resumable_pass import Part


def network(blocks: int = 3) -> tuple[Normed, Program, Skips]:
    torch.manual_seed(0)
    model = Normed(blocks)
    program = skiplab.capture(model, (torch.randn(4, 2, 4, 4, dtype=torch.double),))
    return model, program, skiplab.find(program).expect(blocks)


def test_against_the_module_with_its_blocks_swapped() -> None:
    _, program, skips = network()
    batches = images(5, 4)
    table = lesion(program, skips, batches, F.cross_entropy, kinds=[], reorder=3, draws=2)
    places = {skip.id: place for place, skip in enumerate(skips)}
    for row in table.itertuples():
        model = network()[0]
        for pair in str(row.id).split(" + "):
            model = swapped(model, *(places[name] for name in pair.split(" ↔ ")))
        assert row.loss == pytest.approx(mean_loss(model, batches, F.cross_entropy), rel=1e-12)
    assert table["loss_change"].abs().min() > 1e-6


def test_pairs_are_distinct_and_drawn_by_the_seed() -> None:
    _, program, skips = network(4)
    for seed in (0, 1):
        for each in reorderings(program, skips, 4, 5, seed):
            pairs = each.id.split(" + ")
            assert len(set(pairs)) == len(pairs) == each.k
    one, again, other = ([each.id for each in reorderings(program, skips, 3, 5, seed)] for seed in (0, 0, 1))
    assert one == again != other


def test_blocks_of_a_resnet_trade_places_within_a_stage() -> None:
    """Three stages of three blocks; the first of the later stages changes the shape, in its own way each."""
    case = captured("resnet20")
    pairs = [(a.path, b.path) for a, b in exchangeable_pairs(case.program, case.skips)]
    first = [(f"layer1.{a}", f"layer1.{b}") for a, b in ((0, 1), (0, 2), (1, 2))]
    assert pairs == [*first, ("layer2.1", "layer2.2"), ("layer3.1", "layer3.2")]
    with pytest.raises(UsageError, match="reorder=6: these 9 skips have 5 pairs of like blocks to swap"):
        reorderings(case.program, case.skips, 6, 1, 0)


def test_a_block_that_is_called_twice_has_itself_to_trade_with() -> None:
    case = captured("called_twice")
    assert len(case.skips) == 2
    assert exchangeable_pairs(case.program, case.skips) == []


def test_weights_that_are_computed_are_swapped_before_they_are() -> None:
    """A weight-normed layer's weight is made of a size and a direction, which the block reads through that."""
    torch.manual_seed(0)
    a, b = Block(), Block()
    for block in (a, b):
        weight_norm(block.branch[0])  # type: ignore[arg-type]
    model = Net(lambda net, x: net.b(net.a(x)), a=a, b=b)
    x = torch.randn(3, 8)
    program = skiplab.capture(model, (x,))
    skips = skiplab.find(program).expect(2)
    for skip in skips:
        read = {program.parameters[weight] for _, weight in weights_read(program, skip)}
        own = {name for name, _ in model.named_parameters() if name.startswith(f"{skip.path}.")}
        assert read == own
    (swap,) = reorderings(program, skips, 1, 1, 0)
    (given,) = validate_batches(program, [(x, None)])
    (_, first), *_ = forks(program, Part(given, 0, print), [swap])
    backwards = Net(lambda net, x: net.a(net.b(x)), a=a, b=b)
    with torch.no_grad():
        assert torch.allclose(first.finish(), backwards(x), atol=1e-6)
        assert not torch.allclose(run(program, x), backwards(x), atol=1e-3)
