import pytest
import torch
from torch import nn

import skiplab
from cases import captured
from networks import Net, heavy
from skiplab.errors import UsageError
from skiplab.measure.features import outputs, tokens
from skiplab.measure.similarity import similarity


@pytest.mark.parametrize(
    ("name", "dimension"),
    [("resnet20", 1), ("unet", 1), ("convnext_tiny", 1), ("swin_t", -1), ("bert", -1), ("t5", -1), ("pre_norm", -1)],
)
def test_where_channels_are(name: str, dimension: int) -> None:
    """Swin's images have them last, others' images second; sequences last."""
    case = captured(name)
    found = {(op, case.program.layouts[op.index].channels) for op in outputs(case.program, case.skips).values()}
    assert all(channels == dimension % len(op.shape) for op, channels in found)


def test_a_convolved_sequence_has_channels_second() -> None:
    model = Net(
        lambda net, x: net.c(x + net.b(torch.relu(net.a(x)))), **{n: nn.Conv1d(4, 4, 3, padding=1) for n in "abc"}
    )
    program = skiplab.capture(model, (torch.randn(2, 4, 9),))
    (op,) = outputs(program, skiplab.find(program)).values()
    assert tokens(program, op, torch.randn(2, 4, 9)).shape == (2, 9, 4)


def test_an_output_stands_behind_the_activation_and_once_a_merge() -> None:
    block = captured("out_of_place")
    (op,) = outputs(block.program, block.skips).values()
    assert op.target == "relu"
    dense = captured("dense_block")
    assert len(dense.skips) == 10
    assert len(outputs(dense.program, dense.skips)) == 4


def test_a_block_without_an_entry_a_sample() -> None:
    """Time first, samples second."""
    model = Net(lambda net, x: (y := x.transpose(0, 1)) + net.f(y), f=heavy())
    program = skiplab.capture(model, (torch.randn(4, 5, 8),))
    with pytest.raises(UsageError, match=r"has shape \(5, 4, 8\) for 4 samples, not one entry per sample"):
        similarity(program, skiplab.find(program), [(torch.randn(4, 5, 8), None)])
