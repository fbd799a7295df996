import pytest
import torch
from torch import nn

import skiplab
from cases import captured
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Execution, run
from skiplab.measure.network_variants import check_networks, variants
from skiplab.models import resnet


def test_a_residual_network_without_shortcuts_is_the_plain_network() -> None:
    """Zeros at the merges give what the network without shortcuts gives, with the same weights."""
    torch.manual_seed(0)
    residual, plain = resnet(20, width=4).eval(), resnet(20, width=4, skip=None).eval()
    plain.load_state_dict(residual.state_dict())
    x = torch.randn(2, 3, 16, 16)
    program = skiplab.capture(residual, (x,))
    (variant,) = variants(program, skiplab.find(program), ["plain"])
    with torch.no_grad():
        found = Execution(program, (x,), patches=variant.edges, tensors=variant.tensors).finish()
        torch.testing.assert_close(found, plain(x))


def test_fresh_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 256, 3), nn.BatchNorm2d(256), nn.ReLU(), nn.Flatten(), nn.Linear(256 * 36, 64))
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data.fill_(7.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(2, 3, 8, 8)
    program = skiplab.capture(model, (x,))
    one, again = (variants(program, skiplab.find(program), ["reinitialized"], seed=3)[0] for _ in range(2))
    by_name = {program.parameters.get(node, node): tensor for node, tensor in one.tensors.items()}
    assert float(by_name["0.weight"].std()) == pytest.approx((2 / 27) ** 0.5, rel=0.05)
    assert float(by_name["4.weight"].std()) == pytest.approx((2 / (256 * 36)) ** 0.5, rel=0.05)
    for name, value in (("0.bias", 0), ("1.weight", 1), ("1.bias", 0), ("4.bias", 0)):
        assert (by_name[name] == value).all()
    statistics = {float(t.unique()) for node, t in one.tensors.items() if node not in program.parameters}
    assert statistics == {0.0, 1.0}
    assert all(torch.equal(one.tensors[node], again.tensors[node]) for node in one.tensors)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["bert", "unet", "lstm", "swin_t", "written_gru_cho"])
def test_every_matrix_of_every_network_is_drawn_afresh(name: str) -> None:
    case = captured(name)
    program = case.program
    (fresh,) = variants(program, case.skips.in_graph(), ["reinitialized"])
    matrices = {w for op in program.ops if op.kind in ("weight", "recurrent") for w in op.weights}
    drawn = {program.parameters[node] for node in fresh.tensors if node in program.parameters}
    large = {n for n in matrices if program.tensors[{f: p for p, f in program.parameters.items()}[n]].ndim > 1}
    assert large - drawn == set()
    args, kwargs = program.example
    with torch.no_grad():
        Execution(program, args, kwargs, tensors=fresh.tensors).finish()
        run(program, *args, **kwargs)


def test_names() -> None:
    case = captured("block")
    with pytest.raises(UsageError, match="network 'twin': choose of original, plain"):
        check_networks({"networks": ["twin"]})
    assert [v.name for v in variants(case.program, case.skips, ["reinitialized plain", "original"])] == [
        "reinitialized plain",
        "original",
    ]
