import pandas as pd
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import skiplab
from case import timm
from cases import captured
from networks import Net, conv, linear
from oracles.drawn import drawn
from oracles.tower import Tower, by_hand
from skiplab.errors import DataError, StaleSkip, UsageError
from skiplab.measure.probe import probe

COLUMNS = ["id", "order", "features", "samples", "held_out"]
ACCURACIES = ["accuracy", "accuracy_low", "accuracy_high", "train_accuracy"]


@pytest.fixture(scope="module")
def tower() -> tuple:
    torch.manual_seed(0)
    model = Tower()
    program = skiplab.capture(model, (torch.randn(4, 6, dtype=torch.double),))
    return model, program, skiplab.find(program).expect(4)


def labelled(*sizes: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Three classes around three means, one of which is rare, far from zero."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for n in sizes:
        classes = torch.multinomial(torch.tensor([0.5, 0.4, 0.1]), n, replacement=True, generator=generator)
        noise = torch.randn(n, 6, generator=generator, dtype=torch.double)
        batches.append((50 + noise + torch.eye(6, dtype=torch.double)[classes], classes))
    return batches


def features(model: Tower, x: Tensor) -> list[Tensor]:
    merges: list[Tensor] = []
    with torch.no_grad():
        output = by_hand(model, x, merges=merges)
    return [x, merges[0], torch.relu(merges[1]), *merges[2:], output]


@pytest.mark.parametrize("ridge", [0.01, 1.0, 100.0])
def test_against_scikit_learn(tower: tuple, ridge: float) -> None:
    model, program, skips = tower
    train, test = labelled(20, 13, 40), labelled(50, 61, seed=1)
    table = probe(program, skips, train, test, ridge)
    x, y = (torch.cat(part) for part in zip(*train, strict=True))
    held_x, held_y = (torch.cat(part) for part in zip(*test, strict=True))
    for row, own, held in zip(table.itertuples(), features(model, x), features(model, held_x), strict=True):
        scaler = StandardScaler().fit(own)
        oracle = RidgeClassifier(alpha=ridge).fit(scaler.transform(own), y)
        assert row.accuracy == oracle.score(scaler.transform(held), held_y)
        assert row.train_accuracy == oracle.score(scaler.transform(own), y)
        assert row.features == own.shape[1]
    assert list(table) == COLUMNS + ACCURACIES
    assert table["id"].tolist() == ["input", *(skip.id for skip in skips), "output"]
    assert set(table["samples"]) == {73}
    assert set(table["held_out"]) == {111}


def test_interval_is_wilsons(tower: tuple) -> None:
    _, program, skips = tower
    row = probe(program, skips, labelled(60), labelled(40, seed=1)).iloc[0]
    p, n, z = row["accuracy"], 40, 1.959963984540054
    middle, half = (p + z * z / (2 * n)), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    expected = [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]
    assert [row["accuracy_low"], row["accuracy_high"]] == pytest.approx(expected, rel=1e-9)


def test_batching_does_not_matter(tower: tuple) -> None:
    """Nor does it that a class appears for the first time in a later batch."""
    _, program, skips = tower
    (x, y), *_ = labelled(60)
    order = y.argsort()
    (held_x, held_y), *_ = labelled(40, seed=1)
    whole = probe(program, skips, [(x, y)], [(held_x, held_y)])
    parts = [(x[part], y[part]) for part in order.split(7)]
    held = [(held_x[:15], held_y[:15]), (held_x[15:], held_y[15:])]
    pd.testing.assert_frame_equal(whole, probe(program, skips, parts, held))


def test_images_are_averaged_over_positions_and_tokens_over_time() -> None:
    """The class is in the mean of one channel, and each position by itself is mostly noise."""
    torch.manual_seed(0)
    classes = torch.arange(400) % 2
    x = torch.randn(400, 4, 8, 8)
    x[:, 2] += 0.6 * classes[:, None, None]
    image = Net(lambda net, x: net.f(y := x + net.b(x)) + y, b=conv(), f=conv())
    program = skiplab.capture(image, (x[:2],))
    table = probe(program, skiplab.find(program), [(x[:200], classes[:200])], [(x[200:], classes[200:])])
    assert table["features"].tolist() == [4 * 64, 4, 4, 4]
    assert table["accuracy"][1] > 0.95
    sequence = nn.Sequential(
        Net(lambda net, x: x + net.b(x), b=nn.Sequential(linear(4, 4), nn.ReLU(), linear(4, 4))), linear(4, 4)
    )
    program = skiplab.capture(sequence, (x[:2].flatten(2).mT.contiguous(),))
    tokens = x.flatten(2).mT.contiguous()
    table = probe(program, skiplab.find(program), [(tokens[:200], classes[:200])], [(tokens[200:], classes[200:])])
    assert table["features"].tolist() == [4 * 64, 4, 4]
    assert table["accuracy"][1] > 0.95


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet20", 16), ("unet", 8), ("dense_block", 20), ("bert", 16), ("swin_t", 16), ("written_lstm", 8)],
)
def test_networks(name: str, channels: int) -> None:
    case = captured(name)
    skips = case.skips.in_graph()
    table = probe(case.program, skips, drawn(case.program, 6, 6), drawn(case.program, 6))
    blocks = table[~table["id"].isin(["input", "output"])]
    assert len(blocks) == len({skip.merge for skip in skips})
    assert blocks["features"].iloc[-1] == channels
    assert ("input" in set(table["id"])) == (name != "bert")
    assert table["accuracy"].between(table["accuracy_low"], table["accuracy_high"]).all()


def test_features_that_do_not_vary_do_no_harm(tower: tuple) -> None:
    _, program, skips = tower
    x, y = torch.ones(6, 6, dtype=torch.double), torch.tensor([0, 1, 1, 1, 1, 1])
    table = probe(program, skips, [(x, y)], [(x, y)])
    assert table["accuracy"].tolist() == pytest.approx([5 / 6] * len(table))


def test_what_it_refuses(tower: tuple) -> None:
    _, program, skips = tower
    good, (x, y) = labelled(8), labelled(8)[0]
    for target in (y.double(), y[:, None], y - 1, None):
        with pytest.raises(DataError, match="needs one class index, 0 or above, for each of 8 samples, got"):
            probe(program, skips, [(x, target)], good)
        with pytest.raises(DataError, match="needs one class index"):
            probe(program, skips, good, [(x, target)])
    with pytest.raises(UsageError, match="ridge must be above 0, got 0"):
        probe(program, skips, good, good, ridge=0.0)
    with pytest.raises(UsageError, match="a generator can be read once"):
        probe(program, skips, iter(good), good)
    with pytest.raises(DataError, match="no batches"):
        probe(program, skips, good, [])
    with pytest.raises(StaleSkip):
        probe(program, captured("block").skips, good, good)


def test_features_of_images_with_channels_last_are_their_channels() -> None:
    """Swin-T: 2, 2, 6 and 2 blocks of 96 · 2ᵏ channels, each with two merges, on 16 × 16 to 2 × 2 positions."""
    program = skiplab.capture(timm("swin_tiny_patch4_window7_224", img_size=64)().eval(), (torch.randn(2, 3, 64, 64),))
    skips = skiplab.find(program).expect(24)
    batch = (torch.randn(3, 3, 64, 64), torch.tensor([0, 1, 1]))
    table = probe(program, skips, [batch], [batch])
    blocks = table[table["id"].isin([skip.id for skip in skips])]
    assert blocks["features"].tolist() == [96] * 4 + [192] * 4 + [384] * 12 + [768] * 4
