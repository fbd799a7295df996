"""`skiplab measure`: tables, sentences, what is kept, and one clear line for each way to go wrong."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner, Result

import skiplab
from skiplab import cli
from skiplab.errors import DataError, SkiplabError, UsageError
from skiplab.graph.interpreter import Execution
from skiplab.measure import contribution, lesion, losses
from skiplab.measure.registry import NAMES, load, load_all
from skiplab.measure.similarity import neighbors
from skiplab.stats import wording

NET = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        first, second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.branch = nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), second)

    def forward(self, x):
        return torch.relu(x + self.branch(x))


def build(classes=10, blocks=3, channels=1):
    body = nn.Sequential(*(Block(4) for _ in range(blocks)))
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), body, nn.Flatten(), nn.Linear(256, classes))


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.branch = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 9)

    def forward(self, ids, scale=None):
        x = self.embed(ids)
        return {"logits": self.head(x + self.branch(x))}


def words():
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        ids = torch.randint(9, (8, 5), generator=generator)
        yield {"ids": ids}, ids.roll(-1, 1)


def untargeted():
    yield torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), None


def hinge(output, target):
    return (1 - output.gather(1, target[:, None])).clamp(min=0).mean()


def shapeless(output, target):
    return output
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["measure", *map(str, arguments)], catch_exceptions=False)


def run(*arguments: object) -> Result:
    result = invoke(*arguments, "--samples", "24", "--batch-size", "8", "--device", "cpu")
    assert result.exit_code == 0, result.output
    return result


def found(*arguments: object) -> dict:
    return json.loads(run(*arguments, "--json").stdout)


def test_by_default_four_measures_with_sentences(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skiplab.cli.console._PIPE_WIDTH", 80)
    result = run(f"{net}:build", "--data", "digits")
    for name in ("contribution", "clipping", "gradient", "lesion"):
        assert f"{name} of {net}:build" in result.stdout.replace("\n", " ") or f"{name} of" in result.stdout
    table = [line for line in result.stdout.splitlines() if line.startswith("1.0 ")]
    assert len(table) == 4
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "times as large as what its shortcut brings" in result.stdout
    assert "24 of 360 samples of digits (test), drawn" in result.stderr


def test_json_holds_what_the_library_measures(net: Path) -> None:
    result = found(f"{net}:build", "--data", "digits", "--what", "contribution,lesion")
    assert result["schema"] == "skiplab.measure/2"
    assert result["model"]["name"] == f"{net}:build"
    assert result["data"]["samples"] == 24
    assert set(result["tables"]) == set(result["sentences"]) == {"contribution", "lesion"}

    from skiplab.data.sources import DataRequest, batches, open_source
    from skiplab.loading.resolve import resolve

    torch.manual_seed(0)
    asked = DataRequest("digits", batch_size=8, samples=24)
    source = open_source(asked)
    program = skiplab.capture(resolve(f"{net}:build", ["2x1x8x8"]).model, (source.example(),))
    skips, data = skiplab.find(program), batches(program, source, asked)
    pd.testing.assert_frame_equal(contribution(program, skips, data), pd.DataFrame(result["tables"]["contribution"]))
    table = lesion(program, skips, data, F.cross_entropy, metric=lambda y, t: (y.argmax(1) != t).double().mean())
    ours = pd.DataFrame(result["tables"]["lesion"])[["loss", "loss_change", "metric", "metric_change"]]
    pd.testing.assert_frame_equal(table[list(ours)], ours, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_measure_runs_and_answers(net: Path, tmp_path: Path, name: str) -> None:
    result = found(f"{net}:build", "--data", "digits", "--what", name, "--report", tmp_path / "page.html")
    assert len(result["tables"][name]) > 0
    assert result["sentences"][name]
    assert all(sentence.endswith(".") and "nan" not in sentence for sentence in result["sentences"][name])
    assert {each.name for each in load(name).shown} <= set(result["tables"][name][0])
    assert "<svg" in (tmp_path / "page.html").read_text() or "vegaEmbed" in (tmp_path / "page.html").read_text()


def test_the_first_four_are_the_default_as_the_help_says() -> None:
    assert [name for name, measure in load_all().items() if measure.default] == list(NAMES[:4])


def test_lesions_by_estimate_kind_and_group(net: Path) -> None:
    model, data = f"{net}:build", ("--data", "digits", "--what", "lesion")
    assert "estimate" in found(model, *data, "--method", "estimate")["tables"]
    rows = found(model, *data, "--kinds", "branch,shortcut", "--groups", "2", "--reestimate")["tables"]["lesion"]
    assert {row["kind"] for row in rows} == {"branch", "shortcut"}
    assert len(rows) == 2 * 2 * 2
    assert len(found(model, *data, "--groups", "pairs")["tables"]["lesion"]) == 3
    fast = found(model, *data, "--fast")
    assert fast["notes"]["lesion"]["deviation"] < 0.1
    assert "--fast" in fast["sentences"]["lesion"][-1]


def test_tokens_by_keyword(net: Path) -> None:
    result = found(f"{net}:Tokens", "--data", f"{net}:words", "--what", "contribution,gradient,lesion")
    assert len(result["tables"]["contribution"]) == 1
    assert 0 <= result["tables"]["lesion"][0]["metric"] <= 1


def test_selection_of_skips(net: Path) -> None:
    rows = found(f"{net}:build", "--data", "digits", "--what", "contribution", "--skips", "1.[12]")["tables"]
    assert [row["id"] for row in rows["contribution"]] == ["1.1", "1.2"]


def test_without_targets_the_default_is_what_needs_none(net: Path) -> None:
    result = run(f"{net}:build", "--data", f"{net}:untargeted", "--json")
    assert list(json.loads(result.stdout)["tables"]) == ["contribution", "clipping"]
    assert "note: lesion is left out, since the data have no targets" in result.stderr


def test_the_training_graph_has_no_lesions(net: Path) -> None:
    result = run(f"{net}:build", "--data", "digits", "--train", "--json")
    assert list(json.loads(result.stdout)["tables"]) == ["contribution", "clipping", "gradient"]


def test_a_network_without_skips_has_a_gradient(net: Path) -> None:
    result = found(f"{net}:plain", "--data", "digits", "--what", "gradient")
    assert {row["what"] for row in result["tables"]["gradient"]} == {"weight"}


def test_what_is_finished_is_not_measured_again(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (f"{net}:build", "--data", "digits", "--out", out)
    first = run(*arguments, "--what", "contribution,gradient")
    written = {path.name for path in out.iterdir()}
    assert {"config.json", "contribution.parquet", "contribution.png", "gradient.svg"} <= written
    marked = pd.read_parquet(out / "contribution.parquet").assign(ratio=0.5)
    marked.to_parquet(out / "contribution.parquet")
    second = run(*arguments, "--what", "contribution,lesion")
    assert "loaded finished tables: contribution" in second.stderr
    assert "0.5 times as large" in second.stdout
    assert "0.5 times as large" not in first.stdout
    assert (out / "lesion.parquet").exists()


def test_a_folder_of_other_measures_is_refused(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--data", "digits", "--out", out, "--what", "contribution", "--device", "cpu")
    assert invoke(f"{net}:build", *arguments).exit_code == 0
    for others in (("--seed", "1"), ("--samples", "3"), ("--loss", "mse"), ("--skips", "1.1")):
        with pytest.raises(
            DataError, match=rf"{out} holds other results: .* was .*, now .*; choose another folder, or delete this one"
        ):
            invoke(f"{net}:build", *arguments, *others)
    (out / "contribution.parquet").write_bytes(b"half a")
    with pytest.raises(
        DataError, match=r"contribution.parquet is damaged .* delete this file, and it is computed again"
    ):
        invoke(f"{net}:build", *arguments)
    (out / "config.json").unlink()
    with pytest.raises(DataError, match=r"holds other results: contribution.parquet without config.json"):
        invoke(f"{net}:build", *arguments)


def test_ctrl_c_keeps_what_is_finished(net: Path, tmp_path: Path) -> None:
    slow = net.read_text() + (
        "\n\ndef slow():\n    import time\n    from skiplab.data import digits\n    split = digits().test\n"
        "    for i in range(10):\n        yield split.x[8 * i:8 * i + 8], split.y[8 * i:8 * i + 8]\n"
        "        time.sleep(0.2)\n"
    )
    net.write_text(slow)
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "skiplab.cli",
        "measure",
        f"{net}:build",
        "--data",
        f"{net}:slow",
        "--out",
        str(out),
    ]
    command += ["--what", "contribution,lesion", "--device", "cpu"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a parallel test run ignores
    )
    until = time.monotonic() + 120
    while not (out / "lesion-parts").exists() and time.monotonic() < until:  # which begin once the first is finished
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert f"stopped; finished: contribution; to resume from {out}, run the same command again" in stderr
    assert not (out / "lesion.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("--method", "estimate", "--kinds", "mean"),
            UsageError,
            "--kinds is an option of lesion; measured: .*estimate: leave it out",
        ),
        (("--fast", "--reestimate"), UsageError, "leave one of them out"),
        (("--memory", "-1"), UsageError, "give GiB, above 0"),
        (("--what", "contribution", "--memory", "-1"), UsageError, "give GiB, above 0"),
        (
            ("--what", "contribution", "--networks", "plain"),
            UsageError,
            "--networks is an option of gradient, shattering",
        ),
        (
            ("--what", "contribution", "--kinds", "bend"),
            UsageError,
            "--kinds bend: write one or more of branch, shortcut",
        ),
        (("--networks", "twin"), UsageError, "--networks twin: write one or more of original, plain"),
        (("--what", "magic"), UsageError, "--what magic: choose from contribution, clipping"),
        (("--groups", "none"), UsageError, "--groups none: write a whole number or pairs"),
        (("--groups", "0"), UsageError, "groups=0"),
        (("--kinds", "bend"), UsageError, "--kinds bend: write one or more of branch, shortcut"),
        (("--column", "x"), UsageError, "write x=NAME,y=NAME"),
        (("--loss", "cross"), UsageError, "loss cross: choose cross-entropy, mse, bce, or file.py:callable"),
        (("--loss", "mse", "--metric", "error"), UsageError, "counts wrong classes"),
        (("--loss", "mse"), DataError, "output 8x10 and the targets 8 should have the same shape"),
        (("--meta",), UsageError, "leave out --meta"),
        (("--skips", "layer9"), UsageError, "--skips layer9 selects none of 3 skips"),
        (("--kwargs", '{"classes": 3}'), DataError, "labels go up to 9, and the model has 3 classes"),
        (("--kwargs", '{"channels": 3}'), DataError, "does not take the samples of digits: .*--in-channels 1"),
        (("--kwargs", '{"channels": 3}', "--input", "1x3x8x8"), DataError, "samples of 1x8x8"),
        (("--split", "half"), DataError, "has no part `half`; its parts are test, train"),
        (("--device", "quantum"), UsageError, "choose auto, cpu, cuda"),
    ],
)
def test_what_goes_wrong_is_said(net: Path, arguments: tuple[str, ...], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        invoke(f"{net}:build", "--data", "digits", "--samples", "24", "--batch-size", "8", *arguments)


@pytest.mark.parametrize(
    ("option", "choices"),
    [("--method", "'exact', 'estimate'"), ("--normalize", "'imagenet', 'data', 'none'")],
)
def test_choices(net: Path, option: str, choices: str) -> None:
    result = invoke(f"{net}:build", "--data", "digits", option, "guess")
    assert result.exit_code == 2
    assert f"'guess' is not one of {choices}" in " ".join(result.stderr.replace("│", " ").split())


def test_what_the_users_own_functions_do_wrong(net: Path) -> None:
    def measured(*arguments: str) -> Result:
        return invoke(
            f"{net}:build", "--data", "digits", "--what", "lesion", "--batch-size", "8", "--samples", "8", *arguments
        )

    assert measured("--loss", f"{net}:hinge").exit_code == 0
    for arguments, message in (
        (("--loss", f"{net}:shapeless"), "gives 8x10: it should give the batch's mean"),
        (("--loss", f"{net}:nothing"), "there is no function `nothing`"),
        (("--metric", f"{net}:untargeted"), "fails on output 8x10 and target 8: TypeError"),
        (("--loss", "nowhere.py:loss"), "there is no file nowhere.py"),
    ):
        with pytest.raises(SkiplabError, match=message):
            measured(*arguments)
    with pytest.raises(UsageError, match="the data have no targets"):
        invoke(f"{net}:build", "--data", f"{net}:untargeted", "--what", "lesion")
    with pytest.raises(DataError, match="there are no skips to measure"):
        invoke(f"{net}:plain", "--data", "digits")


def test_warnings_of_the_package_are_one_line(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory ends in the first pass after the capture's own."""
    finish, calls = Execution.finish, iter(range(99))

    def full(self: Execution) -> object:
        if next(calls) == 1:
            raise torch.OutOfMemoryError("no memory")
        return finish(self)

    monkeypatch.setattr(Execution, "finish", full)
    result = run(f"{net}:build", "--data", f"{net}:untargeted", "--what", "contribution")
    assert "note: a batch of 4 samples does not fit into memory: continuing with 2\n" in result.stderr


# The losses, against torch's own on plain tensors.


def test_losses_of_what_models_return() -> None:
    scores, classes = torch.randn(4, 6), torch.tensor([0, 5, 2, 2])
    expected = F.cross_entropy(scores, classes)
    named = losses.LOSSES["cross-entropy"]
    for output in (scores, {"logits": scores}, {"out": scores, "aux": scores + 1}, (scores, scores + 1), [[scores]]):
        assert torch.equal(named(output, classes), expected)
    tokens, targets = torch.randn(4, 3, 6), torch.randint(6, (4, 3))
    torch.testing.assert_close(named(tokens, targets), F.cross_entropy(tokens.flatten(0, 1), targets.flatten()))
    torch.testing.assert_close(named(tokens.movedim(-1, 1), targets), named(tokens, targets))
    assert float(named.error(scores, scores.argmax(1))) == 0
    binary = losses.LOSSES["bce"]
    torch.testing.assert_close(
        binary(scores[:, :1], torch.ones(4)), F.binary_cross_entropy_with_logits(scores[:, 0], torch.ones(4))
    )
    assert float(binary.error(torch.tensor([[3.0], [-3.0]]), torch.tensor([1, 1]))) == 0.5
    with pytest.raises(DataError, match="the model returns a str"):
        losses.scores_of("word")


# The sentences, of tables whose answer is plain.


def said(name: str, table: dict) -> str:
    return " ".join(load(name).sentences(pd.DataFrame(table)))


def test_an_interval_that_includes_zero_is_said_to() -> None:
    base = {"id": ["a", "b", "c"], "order": [1, 2, 3], "samples": 100, "ratio": [0.1, 0.5, 2.0], "ratio_std": 0.1}
    text = said("contribution", {**base, "cosine": [0.5, 0.01, -0.5], "cosine_std": 0.1})
    assert "0.5 times as large as what its shortcut brings, in the median of 3 skips: from 0.1 (`a`) to 2 (`c`)" in text
    assert "the median cosine with the shortcut's signal is +0.01" in text
    assert "of 3 intervals (95 %), 1 lies above zero, 1 lies below zero, 1 includes zero" in text
    lesion = {"id": ["a", "b"], "order": [1, 2], "kind": "branch", "batchnorm": "as trained", "loss_change": [0.4, 0.1]}
    text = said("lesion", {**lesion, "loss_change_low": [0.3, -0.1], "loss_change_high": [0.5, 0.3]})
    assert "most at `a`: +0.4 (95 % interval +0.3 to +0.5)" in text
    assert "1 lies above zero, 1 includes zero" in text


def test_intervals_are_students() -> None:
    """Against scipy on the samples themselves."""
    from scipy import stats

    values = np.random.default_rng(0).normal(0.3, 1, 12)
    row = pd.Series({"samples": 12, "x": values.mean(), "x_std": values.std(ddof=1)})
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert wording.interval_of(row, "x") == pytest.approx((expected.low, expected.high))


def test_sentences_of_what_cannot_be_said() -> None:
    nan = math.nan
    base = {"id": ["a"], "order": [1], "samples": 1}
    assert "the size of the branches has no reference" in said(
        "contribution", {**base, "ratio": nan, "ratio_std": nan, "cosine": nan}
    )
    assert "without an interval" in said(
        "contribution", {**base, "ratio": 1.0, "ratio_std": nan, "cosine": 0.5, "cosine_std": nan}
    )
    assert "nothing on the shortcuts' route is clipped" in said("clipping", {**base, "activation": [None]})
    lost = {**base, "kind": "branch", "batchnorm": "as trained", "loss_change": math.inf}
    assert "In 1 of 1 lesioned networks the loss is no finite number." in said("lesion", lost)
    assert "no path carries any" in said("lengths", {"length": [0], "weight": [nan], "path_share": [1.0]})


def test_neighbors_are_pairs_of_one_block_and_the_next() -> None:
    orders = [3, 7, 20]
    pairs = pd.DataFrame([(a, b) for a in orders for b in orders], columns=["order", "other_order"])
    assert neighbors(pairs).to_numpy().tolist() == [[3, 7], [7, 20]]


def test_layers_of_a_network_without_skips(net: Path) -> None:
    arguments = ("--data", "digits", "--samples", "40", "--what", "gradient,layers", "--json")
    tables = json.loads(invoke(f"{net}:plain", *arguments).stdout)["tables"]
    assert [row["id"] for row in tables["layers"]] == ["3"]
    assert {row["kind"] for row in tables["layers"]} == {"layer"}
    with pytest.raises(DataError, match="no skips to measure: measure weight layers with --what gradient,layers"):
        invoke(f"{net}:plain", "--data", "digits", "--what", "contribution")


def test_the_gradient_of_the_plain_network_and_swapped_blocks(net: Path) -> None:
    arguments = ("--data", "digits", "--samples", "40", "--what", "gradient,lesion", "--json", "--reorder", "1")
    tables = json.loads(invoke(f"{net}:build", *arguments, "--networks", "original, plain").stdout)["tables"]
    assert {row["network"] for row in tables["gradient"]} == {"original", "plain"}
    plain = [row for row in tables["gradient"] if row["network"] == "plain" and row["what"] == "skip"]
    assert all(row["shortcut_norm"] == 0 for row in plain)
    swapped = [row for row in tables["lesion"] if row["kind"] == "reorder"]
    assert len({row["id"] for row in swapped}) == len(swapped) > 0
