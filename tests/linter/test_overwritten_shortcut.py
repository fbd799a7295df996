"""Each pattern and its twin that keeps the value; what counts is the name by which the shortcut is read."""

import inspect
import linecache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from linted import linted
from networks import heavy, linear


class PreActivation(nn.Module):
    """What the networks of this file are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.body, self.project = nn.ReLU(inplace=True), heavy(), linear()
        self.branch = nn.Sequential(nn.ReLU(inplace=True), heavy())
        self.down = None


class OldName(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(x)
        return self.body(y) + x  # here


class NewName(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(x)
        return self.body(y) + y


class SameName(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.body(x) + x


class Kept(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        identity = x
        x = self.relu(x)
        x = self.body(x)
        if self.down is not None:
            identity = self.down(identity)
        x += identity  # here
        return x


class KeptTooLate(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(x)
        identity = x
        return self.body(y) + identity  # here


class KeptAfterwards(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        identity = x
        x = self.body(x)
        x += identity
        return x


class Copied(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        identity = x.clone()
        x = self.relu(x)
        return self.body(x) + identity


class OneLine(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)  # here


class OneLineNotInPlace(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        self.branch[0].inplace = False  # type: ignore[assignment]
        return x + self.branch(x)


class BranchFirst(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        f = self.branch(x)
        return torch.add(f, x)  # here


class OnPurpose(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        F.relu_(x)
        return x + self.body(x)


class Method(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        y = x.relu_()
        return self.body(y) + x  # here


class View(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        flat = x.view(-1, 8)
        y = F.relu(x, inplace=True)
        return self.body(y) + flat  # here


class ViewAfterwards(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(x, inplace=True)
        flat = y.view(-1, 8)
        return self.body(y) + flat


class OtherHalf(PreActivation):
    """What is written is one half, and what is read the other."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:2], x[2:]
        F.relu_(a)
        return self.body(b) + b


class Projected(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(x)
        return self.body(y) + self.project(x)  # here


class ProjectedNewName(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(x)
        return self.body(y) + self.project(y)


class InAList(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        features = []
        features.append(x)
        x = self.relu(x)
        return torch.cat([self.body(x), features[-1]], -1)  # here


class InAListAfterwards(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        features = []
        x = self.relu(x)
        features.append(x)
        return torch.cat([self.body(x), features[-1]], -1)


class BoundAgain(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(x)
        x = y
        return self.body(y) + x


class ThreeWays(PreActivation):
    """What is overwritten is the projection, which has no other name."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.project(x))
        return x + self.body(y) + y


class NothingHeavier(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(x)
        return torch.tanh(y) + x


class NoShortcut(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(x)
        return y + x


class AnotherActivation(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        y = F.hardtanh(x, inplace=True)
        return self.body(y) + x  # here


class NoActivation(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        y = x.mul_(2)
        return self.body(y) + x


OVERWRITTEN = [
    OldName,
    Kept,
    KeptTooLate,
    OneLine,
    BranchFirst,
    Method,
    View,
    Projected,
    InAList,
    AnotherActivation,
]
MENDED = [
    NewName,
    SameName,
    KeptAfterwards,
    Copied,
    OneLineNotInPlace,
    OnPurpose,
    ViewAfterwards,
    OtherHalf,
    ProjectedNewName,
    InAListAfterwards,
    BoundAgain,
    ThreeWays,
    NothingHeavier,
    NoShortcut,
    NoActivation,
]


def network(block: type[nn.Module]) -> nn.Module:
    return nn.Sequential(linear(), block(), nn.ReLU())


@pytest.mark.parametrize("block", OVERWRITTEN)
def test_overwritten(block: type[nn.Module]) -> None:
    findings = linted(network(block), torch.randn(4, 8))
    assert [(finding.rule, finding.path) for finding in findings] == [("overwritten-shortcut", "1")]
    lines, first = inspect.getsourcelines(block)
    here = first + next(i for i, line in enumerate(lines) if line.endswith("# here\n"))
    assert findings[0].source == f"{__file__}:{here}"


@pytest.mark.parametrize("block", MENDED)
def test_not_overwritten(block: type[nn.Module]) -> None:
    assert list(linted(network(block), torch.randn(4, 8))) == []


def test_the_names_and_the_line_of_the_write_are_told() -> None:
    what = linted(network(Kept))[0].what
    assert what.startswith("`identity` on the shortcut is overwritten in place by relu")
    line = inspect.getsourcelines(Kept)[1] + 3
    assert f"{__file__}:{line}" in what


def test_blocks_in_a_row_are_told_apart() -> None:
    """The last activation of a block overwrites the sum, whose result the next block's shortcut carries."""

    class Post(PreActivation):
        def forward(self, x: Tensor) -> Tensor:
            identity = x
            x = self.body(x)
            x = x + identity
            return self.relu(x)

    assert list(linted(nn.Sequential(linear(), *(Post() for _ in range(3))))) == []


def test_a_loop_over_layers_that_end_in_place() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(linear(), nn.ReLU(inplace=True)) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            features = []
            for layer in self.layers:
                features.append(x)
                x = layer(x)
            return torch.cat([x, *features], -1)

    assert list(linted(nn.Sequential(linear(), Loop()))) == []


class Helped(PreActivation):
    """The block's code in a method that `forward` calls."""

    def inner(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.body(x) + self.project(x) + x

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class HelpedOldName(Helped):
    def inner(self, x: Tensor) -> Tensor:
        y = self.relu(x)
        return self.body(y) + x


def test_helpers_are_read_too() -> None:
    assert list(linted(network(Helped))) == []
    findings = linted(network(HelpedOldName))
    assert [finding.rule for finding in findings] == ["overwritten-shortcut"]
    assert findings[0].source == f"{__file__}:{inspect.getsourcelines(HelpedOldName)[1] + 3}"


def test_a_helper_that_writes_and_one_that_reads() -> None:
    class Two(PreActivation):
        def first(self, x: Tensor) -> Tensor:
            return self.relu(x)

        def second(self, x: Tensor, y: Tensor) -> Tensor:
            return self.body(y) + x

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x), x)

    assert list(linted(network(Two))) == []  # which value goes by which name is not plain


def test_code_that_cannot_be_read_is_a_note() -> None:
    text = inspect.getsource(OldName)
    space: dict = {"PreActivation": PreActivation, "Tensor": Tensor}
    exec(compile(text, "<unknown>", "exec"), space)
    linecache.checkcache()
    findings = linted(network(space["OldName"]))
    assert list(findings) == []
    assert (
        "overwritten-shortcut: the source code of <unknown> is not available, so names cannot be read."
        in findings.notes
    )


def test_the_shortcut_really_carries_what_the_activation_left() -> None:
    model = network(OldName)
    program = skiplab.capture(model, (torch.randn(4, 8),))
    assert program.overwritten
    skip = skiplab.find(program)[0]
    assert program.by_name[skip.fork].kind == "activation"
