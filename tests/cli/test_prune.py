"""`skiplab prune`: the frontier, what is written, and how a stopped run goes on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner, Result

from skiplab import cli, pruning
from skiplab.data import digits
from skiplab.errors import DataError, SkiplabError, UsageError
from skiplab.pruning.summary import PruningSummary

QUICK = ("--data", "digits", "--samples", "60", "--by", "last")

NET = """
import torch
from skiplab.models import resnet


def build():
    torch.manual_seed(0)
    return resnet(14, in_channels=1, width=4)
"""


def invoke(*arguments: str) -> Result:
    done = CliRunner().invoke(cli.app, ["prune", *arguments])
    if isinstance(done.exception, SkiplabError):
        raise done.exception
    return done


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:build"


def test_json_has_the_frontier_and_the_files_are_the_network(net: str, tmp_path: Path) -> None:
    out = tmp_path / "smaller"
    done = invoke(net, *QUICK, "--keep", "0.7", "--finetune", "1", "--out", str(out), "--formats", "python", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["schema"] == "skiplab.prune/2"
    assert [row["removed"] for row in found["frontier"]] == ["", "layer3.1", "layer3.0"]
    assert found["chosen"] == 2
    assert found["finetuned"]["parameters"] == found["frontier"][2]["parameters"]
    assert len(pd.read_parquet(out / "frontier.parquet")) == 3
    assert (out / "frontier.png").stat().st_size > 1000
    from skiplab.loading.resolve import resolve

    saved = resolve(f"{out / 'network.py'}:network")
    data = digits()
    with torch.no_grad():
        wrong = (saved.model.eval()(data.test.x).argmax(1) != data.test.y).double().mean()
    assert found["finetuned"]["metric"] == pytest.approx(float(wrong))


def test_what_is_finished_is_not_ranked_again(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ("--out", str(tmp_path / "kept"), "--formats", "python", "--json")
    evaluated = []
    row = pruning.Evaluator.row
    monkeypatch.setattr(pruning.Evaluator, "row", lambda self, program: evaluated.append(0) or row(self, program))

    def stop(self: pruning.Evaluator, program: Any) -> dict[str, Any]:
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        evaluated.append(0)
        return row(self, program)

    with monkeypatch.context() as patch:
        patch.setattr(pruning.Evaluator, "row", stop)
        stopped = invoke(net, *QUICK, "--keep", "0.5", *out)
    assert stopped.exit_code == 130
    assert f"to resume from {tmp_path / 'kept'}, run the same command again" in stopped.stderr
    evaluated.clear()
    done = invoke(net, *QUICK, "--keep", "0.5", *out)
    assert len(evaluated) == 2
    assert [each["blocks"] for each in json.loads(done.stdout)["frontier"]] == [6, 5, 4, 3]
    evaluated.clear()
    assert json.loads(invoke(net, *QUICK, "--keep", "0.5", *out).stdout)["frontier"][:4]
    assert not evaluated


def frontier(**changes: Any) -> pd.DataFrame:
    whole = {"blocks": 10, "share": 1.0, "removed": "", "score": 0.0, "parameters": 100, "flops": 1000}
    whole |= {"latency_ratio": 1.0, "latency_ratio_min": 1.0, "loss": 0.1, "loss_change": 0.0, "metric": 0.02}
    whole |= {f"metric_{end}": 0.02 for end in ("low", "high")} | {f"loss_{end}": 0.1 for end in ("low", "high")}
    whole |= {f"{name}_change{end}": 0.0 for name in ("metric", "loss") for end in ("", "_low", "_high")}
    smaller = whole | {"blocks": 9, "share": 0.9, "removed": "a", "parameters": 80, "flops": 500, "latency_ratio": 0.75}
    return pd.DataFrame([whole, smaller | changes])


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.01, 0.03, "a rise"), (-0.01, 0.03, "no clear change"), (-0.03, -0.01, "a fall")]
)
def test_sentences_say_what_the_interval_says(low: float, high: float, verdict: str) -> None:
    changes = {"metric": 0.04, "metric_change": 0.02, "metric_change_low": low, "metric_change_high": high}
    found = PruningSummary(frontier(**changes), 1, "error").answer()
    assert found[0] == "1 of 10 blocks (10%) are removed, in this order: a."
    assert "80% of the parameters and 50% of the FLOPs, and takes 75% of the time" in found[1]
    interval = f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f})"
    assert f"from 2.0% to 4.0% without training: {verdict}, +2.0 points {interval}" in found[2]


def test_sentences_about_a_limit_that_nothing_meets() -> None:
    found = PruningSummary(frontier(), 0, "loss").answer()
    assert found == ["No block can be removed: without the first one, the loss is over the limit."]


def test_rows_are_shares_of_the_whole_network() -> None:
    table = PruningSummary(frontier(), 1, "error", {"metric": 0.01}, 2).table()
    assert table["parameters"].tolist()[:2] == [1.0, 0.8]
    assert table["removed"].tolist() == ["(none)", "a", "(fine-tuned)"]
    assert table["metric"].iloc[2] == 0.01


def test_wrong_requests_are_reported_before_anything_runs(net: str, tmp_path: Path) -> None:
    for options, text in (
        (("--keep", "0.7", "--latency", "0.5"), "exclude each other"),
        (("--keep", "2"), "--keep 2: give a number from 0 to below 1"),
        (("--max-loss", "-1"), "--max-loss -1: give a number from 0"),
        (("--candidates", "0"), "--candidates 0: give at least 1"),
        (("--keep", "0.7", "--formats", "pt2"), "give --out FOLDER"),
        (("--keep", "0.7", "--skips", "layer9"), "selects none"),
    ):
        with pytest.raises(UsageError, match=text):
            invoke(net, "--data", "digits", *options)
    assert invoke(net, "--data", "digits", "--by", "size").exit_code == 2


def test_data_of_one_part_are_cut_and_not_trained_on(net: str, tmp_path: Path) -> None:
    data = digits()
    np.savez(tmp_path / "one.npz", x=data.test.x.numpy(), y=data.test.y.numpy())
    np.savez(tmp_path / "five.npz", x=data.test.x.numpy(), y=data.test.y.numpy() + 5)
    options = (net, "--data", f"{tmp_path / 'one.npz'}", "--by", "last", "--keep", "0.9", "--batch-size", "40")
    done = invoke(*options, "--json")
    assert "three quarters of each batch rank blocks and one quarter evaluates networks" in done.stderr
    assert json.loads(done.stdout)["frontier"][1]["removed"] == "layer3.1"
    with pytest.raises(UsageError, match="needs a training part separate"):
        invoke(*options, "--finetune", "1")
    with pytest.raises(DataError, match="labels go up to 14"):
        invoke(net, "--data", f"{tmp_path / 'five.npz'}", "--keep", "0.9")


def test_another_request_in_the_same_folder(net: str, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "kept"), "--formats", "python")
    assert invoke(net, *QUICK, "--keep", "0.9", *out).exit_code == 0
    with pytest.raises(SkiplabError, match=r"holds other results: options.keep was 0.9, now 0.5"):
        invoke(net, *QUICK, "--keep", "0.5", *out)
