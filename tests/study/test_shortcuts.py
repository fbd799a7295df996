"""The study of shortcuts: its networks are what the paper's table says, and a run leaves what the page needs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from skiplab.errors import UsageError
from skiplab.models.resnet import resnet
from skiplab.study.question import Study, load_study
from skiplab.study.questions import placement, shortcuts
from skiplab.study.run_cell import RunContext

MERGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # Table 1, with gates whose weights are 0
    "identity": lambda x, f: x + f,
    "half": lambda x, f: 0.5 * x + f,
    "average": lambda x, f: 0.5 * x + 0.5 * f,
    "gate-0": lambda x, f: 0.5 * x + 0.5 * f,
    "gate-6": lambda x, f: x * (1 - 1 / (1 + torch.e**6)) + f / (1 + torch.e**6),
    "shortcut-gate-0": lambda x, f: 0.5 * x + f,
    "shortcut-gate-6": lambda x, f: x * (1 - 1 / (1 + torch.e**6)) + f,
    "dropout": lambda x, f: x + f,  # in evaluation mode
}


@pytest.mark.parametrize("variant", MERGES)
def test_a_block_joins_its_ways_as_the_table_says(variant: str) -> None:
    block = resnet(8, width=4, **shortcuts.VARIANTS[variant]).eval().get_submodule("layer1.0")
    for name, parameter in block.named_parameters():
        if "gate.weight" in name:
            torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0)).abs()
    branch = block.branch(x)  # type: ignore[operator]
    expected = MERGES[variant](x, branch).relu()
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("name", ["depth", "shortcuts", "placement", "gradient", "sum", "ensemble", "noise"])
def test_depths_that_no_such_network_has_are_refused(name: str) -> None:
    study = load_study(name)
    with pytest.raises(UsageError, match="6n \\+ 2"):
        study.cells(replace(study.grids["quick"], axes={**study.grids["quick"].axes, "depth": (9,)}))


@pytest.mark.parametrize("name", ["shortcuts", "placement"])
def test_a_run_leaves_its_tables(name: str, tmp_path: Path) -> None:
    module = {"shortcuts": shortcuts, "placement": placement}[name]
    study: Study = module.STUDY
    grid = study.grids["quick"]
    cell = study.cells(
        replace(grid, axes={"depth": (8,)}, seeds=1, recipe=replace(grid.recipe, epochs=1), device="cpu")
    )[-1]
    tables = study.work(RunContext(cell.config, tmp_path, lambda *_: None))
    row = tables["runs"].iloc[0]
    assert row["status"] == "ok"
    assert 0 <= row["test_error"] <= 1
    if name == "placement":  # pre-activation, 8 layers: nothing but the last ReLU on the lightest path
        assert tables["census"]["fewest"].tolist() == [1]
    else:
        plain = resnet(8, width=8, in_channels=1, skip=None)
        assert row["parameters"] == sum(parameter.numel() for parameter in plain.parameters())
