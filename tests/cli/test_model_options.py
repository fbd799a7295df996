"""Options that build a model: the same three names for every library, `--kwarg` and `--kwargs`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from skiplab import cli
from skiplab.cli.model_options import ModelKeywords, ModelOptions
from skiplab.cli.study_compare import model_keywords_of
from skiplab.errors import SkiplabError, UsageError

NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=10, in_channels=3, gain=1.0, name="net"):
        super().__init__()
        self.conv, self.head = nn.Conv2d(in_channels, 8, 3, padding=1), nn.Linear(8, num_classes)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.example_input_shape = (in_channels, 16, 16)
        self.gain, self.label = gain, name

    def forward(self, x):
        x = self.conv(x)
        return self.head((x + self.body(x).relu()).mean((2, 3))) * self.gain


def tokens():
    class Tokens(nn.Module):
        def example_inputs(self):
            return torch.arange(6).reshape(1, 6)

        def forward(self, x):
            return x + x

    return Tokens()
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "nets.py"


def ends(model: nn.Module) -> tuple[int, int]:
    """Channels of the first convolution, and classes of the last layer."""
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return convs[0].in_channels, heads[-1].out_features


@pytest.mark.parametrize(
    ("spec", "extra"),
    [
        ("resnet20", {}),
        ("vit", {}),
        ("timm:resnet10t", {}),
        ("timm:vit_tiny_patch16_224", {}),
        ("NETS:Net", {}),
        ("transformers:vit", {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "patch_size": 8}),
    ],
)
def test_classes_channels_and_image_size_of_every_source(nets: Path, spec: str, extra: dict[str, Any]) -> None:
    library = spec.partition(":")[0]
    if library in ("timm", "transformers"):
        pytest.importorskip(library)
    options = ModelOptions(
        spec.replace("NETS", str(nets)), kwargs=json.dumps(extra), num_classes=7, in_channels=2, img_size=32
    )
    resolved = options.resolved()
    (image,) = [*resolved.args, *resolved.kwargs.values()]
    assert image.shape[1:] == (2, 32, 32)
    assert resolved.model.eval()(*resolved.args, **resolved.kwargs) is not None
    if library != "transformers":  # whose base models have no classes
        assert ends(resolved.model) == (2, 7)


def test_an_input_shape_stands_before_the_image_size(nets: Path) -> None:
    resolved = ModelOptions(f"{nets}:Net", inputs=["2x3x5x7"], img_size=32).resolved()
    assert resolved.args[0].shape == (2, 3, 5, 7)


def test_a_model_without_images_has_no_image_size(nets: Path) -> None:
    with pytest.raises(UsageError, match="takes no images: give --input"):
        ModelOptions(f"{nets}:tokens", img_size=32).resolved()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("gain=2", 2),
        ("gain=0.5", 0.5),
        ("gain=null", None),
        ("gain=true", True),
        ("gain=[1, 2]", [1, 2]),
        ("gain=B", "B"),
        ('gain="2"', "2"),
        ("gain=a=b", "a=b"),
        ("gain=", ""),
    ],
)
def test_a_keyword_argument(text: str, value: Any) -> None:
    assert ModelOptions("net", kwarg=[text]).keywords() == {"gain": value}


def test_more_special_options_stand_before_general_ones() -> None:
    options = ModelOptions(
        "net", kwargs='{"a": 1, "b": 1, "num_classes": 1}', kwarg=["b=2", "c=2", "num_classes=2"], num_classes=3
    )
    assert options.keywords() == {"a": 1, "b": 2, "c": 2, "num_classes": 3}


def test_options_reach_the_model_from_the_command_line(nets: Path) -> None:
    arguments = ["find", f"{nets}:Net", "--kwarg", "gain=3", "--kwarg", "name=mine", "--num-classes", "4", "--json"]
    result = CliRunner().invoke(cli.app, [*arguments, "--in-channels", "1", "--img-size", "8"], catch_exceptions=False)
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)["skips"]) == 1


@pytest.mark.parametrize("text", ["gain", "=2", "my gain=2"])
def test_a_keyword_argument_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="write name=value"):
        ModelOptions("net", kwarg=[text]).keywords()


def test_a_keyword_that_the_callable_does_not_take(nets: Path) -> None:
    with pytest.raises(SkiplabError, match="num_classes"):
        ModelOptions(f"{nets}:tokens", num_classes=3).resolved()


def test_the_seed_is_of_the_weights_alone(nets: Path) -> None:
    """The image of --img-size is the same in every run."""
    images = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        images.append(ModelOptions(f"{nets}:Net", img_size=8).resolved().args[0])
    assert torch.equal(*images)


def test_keywords_of_compared_networks() -> None:
    """Named options hold for all networks of Skiplab and of libraries, under each one's own name for them."""
    models = {"ours": "resnet20", "timm": "timm:resnet18", "mine": "net.py:build"}
    named = ModelKeywords(num_classes=3, in_channels=1)
    assert model_keywords_of(models, named, ['mine={"width": 2}']) == {
        "ours": {"num_classes": 3, "in_channels": 1},
        "timm": {"num_classes": 3, "in_chans": 1},
        "mine": {"width": 2},
    }
