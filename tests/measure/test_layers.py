import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import skiplab
from cases import captured
from networks import Net, linear
from oracles.lesioned import Normed, images, mean_loss
from oracles.tower import Tower, samples
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.measure.layers import layers, units


def plain() -> tuple[nn.Sequential, Program]:
    """Units of the sequence: 0–2, 3–5, 6 (into a wider space) and 9; only those that keep the shape can go."""
    torch.manual_seed(0)
    conv = lambda channels=2: nn.Conv2d(2, channels, 3, padding=1)  # noqa: E731
    modules = [conv(), nn.BatchNorm2d(2), nn.ReLU(), conv(), nn.Tanh(), nn.Dropout(), conv(3), nn.Flatten(), nn.ReLU()]
    model = nn.Sequential(*modules, linear(48, 48), nn.LayerNorm(48), linear(48, 3)).double().eval()
    return model, skiplab.capture(model, (torch.randn(4, 2, 4, 4, dtype=torch.double),))


def test_against_the_module_with_its_layers_left_out() -> None:
    model, program = plain()
    batches = images(5, 4)
    table = layers(program, batches, F.cross_entropy)
    wanted = []
    for unit in ((0, 1, 2), (3, 4, 5), (9, 10)):
        without = copy.deepcopy(model)
        for place in unit:
            without[place] = nn.Identity()
        wanted.append(mean_loss(without, batches, F.cross_entropy))
    assert table["loss"].to_list() == pytest.approx(wanted, rel=1e-12)
    whole = mean_loss(model, batches, F.cross_entropy)
    assert table["loss_change"].to_list() == pytest.approx([loss - whole for loss in wanted], abs=1e-12)
    assert table["id"].to_list() == ["0", "3", "9"]
    assert set(table["kind"]) == {"layer"}
    assert (table["loss_change_low"] < table["loss_change_high"]).all()


def test_beside_skip_connections_too() -> None:
    model, batches = Normed(2), images(5, 4)
    program = skiplab.capture(model, (batches[0][0],))
    table = layers(program, batches, F.cross_entropy)
    assert table["id"].to_list() == [f"convs.{i}" for i in range(4)]
    x, target = batches[0]
    with torch.no_grad():
        h = x + model.norms[1](model.convs[1](F.relu(model.norms[0](model.convs[0](x)))))
        h = h + model.norms[3](model.convs[3](h))  # the third layer, with its norm and its ReLU, is not there
        wanted = float(F.cross_entropy(model.head(h.flatten(1)), target))
    assert layers(program, batches[:1], F.cross_entropy)["loss"][2] == pytest.approx(wanted, rel=1e-12)


def test_all_readers_get_what_the_layer_takes() -> None:
    model = Net(lambda net, x: (h := net.a(x)) * h.exp() + net.b(h), a=linear(), b=linear())
    x = torch.randn(4, 8)
    program = skiplab.capture(model, (x,))
    table = layers(program, [(x, None)], lambda output, _: output.mean())
    assert table["id"].to_list() == ["a", "b"]
    with torch.no_grad():
        h = model.a(x)  # type: ignore[operator]
        wanted = [(x * x.exp() + model.b(x)).mean(), (h * h.exp() + h).mean()]  # type: ignore[operator]
    assert table["loss"].to_list() == pytest.approx([float(each) for each in wanted], rel=1e-5)


def test_a_norm_that_changes_the_shape_is_no_part_of_the_layer() -> None:
    model = Net(lambda net, x: net.a(x).var(-1), a=linear())
    x = torch.randn(4, 8)
    program = skiplab.capture(model, (x,))
    table = layers(program, [(x, None)], lambda output, _: output.mean())
    assert table["loss"].to_list() == pytest.approx([float(x.var(-1).mean())])


def test_a_layer_that_is_the_output() -> None:
    model = nn.Sequential(linear(), nn.ReLU())
    x = torch.randn(4, 8)
    program = skiplab.capture(model, (x,))
    table = layers(program, [(x, None)], lambda output, _: output.square().mean())
    assert table["loss"].to_list() == pytest.approx([float(x.square().mean())])


def test_a_layer_that_is_called_twice_has_two_names() -> None:
    model = Net(lambda net, x: net.a(torch.tanh(net.a(x))), a=linear())
    program = skiplab.capture(model, (torch.randn(4, 8),))
    table = layers(program, [(torch.randn(4, 8), None)], lambda output, _: output.square().mean())
    assert table["id"].to_list() == ["a:linear", "a:linear_1"]


def test_the_plain_twins_layers() -> None:
    """Two convolutions a block, but for the first of each later stage, which halves the resolution."""
    case = captured("plain20")
    assert len(units(case.program)) == 9 * 2 - 2


def test_requests_that_make_no_sense() -> None:
    _, program = plain()
    with pytest.raises(UsageError, match=r"no option \['kinds'\]: layers takes \['folder', 'memory'"):
        layers(program, images(4), F.cross_entropy, kinds=["mean"])  # type: ignore[call-arg]
    training = skiplab.capture(Tower(), (torch.randn(4, 6, dtype=torch.double),), train=True)
    with pytest.raises(UsageError, match="captured as a training graph"):
        layers(training, samples(4), F.cross_entropy)


def test_a_network_without_deletable_layers_says_so() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    table = layers(
        skiplab.capture(model, (torch.randn(3, 6),)), [(torch.randn(3, 6), torch.tensor([0, 1, 0]))], "cross-entropy"
    )
    assert len(table) == 0
    assert table.answer() == "There is no block or layer to delete."
