"""The command line: what is printed where, exit codes, and one clear line for each way to go wrong."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import zoo
from skiplab import cli

ZOO = str(Path(zoo.__file__))


def run(*arguments: str) -> str:
    """In this process; errors are raised."""
    result = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As a user starts it."""
    command = [sys.executable, "-m", "skiplab.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_find_prints_a_row_a_skip_and_the_census_in_three_lines() -> None:
    lines = run("find", "torchvision:resnet50", "--input", "1x3x64x64").splitlines()
    rows = [line.split() for line in lines if line.startswith("layer")]
    assert len(rows) == 16
    assert rows[0][:6] == ["layer1.0", "layer1.0", "add", "projection", "3", "relu"]
    assert rows[0][6].startswith("resnet.py:")
    assert "16 skips: 12 add/identity, 4 add/projection" in lines
    assert lines[-3].startswith("paths: 65,536")
    assert lines[-2].startswith("nonlinearities on a path: 18 to 50")
    assert lines[-1].startswith("most linear path: 18 nonlinearities, 6 weight layers")


def test_find_in_80_columns_keeps_every_line_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skiplab.cli.console._PIPE_WIDTH", 80)
    lines = run("find", "resnet20").splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("layer") and "skip.py:" in line for line in lines) == 9


def test_find_json() -> None:
    found = json.loads(run("find", f"{ZOO}:with_tensor", "--json"))
    assert found["schema"] == "skiplab.find/3"
    assert found["model"] == f"{ZOO}:with_tensor"
    (skip,) = found["skips"]
    expected = {"id": "forward", "path": "", "combine": "add", "shortcut": "identity", "weight_layers": 2}
    assert expected.items() <= skip.items()
    file, line = skip["source"].rsplit(":", 1)
    assert "x + self.branch(x)" in Path(file).read_text().splitlines()[int(line) - 1]
    assert found["census"]["paths"] == "2"
    assert [step["kind"] for step in found["census"]["witness"]] == ["input", "weight", "merge", "weight"]


def test_find_proves_what_it_found() -> None:
    assert "proved: 9 of 9 at 3 random points" in run("find", "resnet20", "--input", "2x3x8x8", "--prove")
    proof = json.loads(run("find", f"{ZOO}:with_tensor", "--prove", "--json"))["proof"]
    assert [row["ok"] for row in proof["skips"]] == [True]


def test_find_without_values() -> None:
    assert "16 skips" in run("find", "resnet50", "--meta")


def test_find_lists_what_is_apart() -> None:
    lines = run("find", "torchvision:mobilenet_v3_small", "--input", "1x3x32x32", "--all").splitlines()
    assert sum(line.startswith("gate") for line in lines) == 9
    assert "6 skips: 6 add/identity; non-skips: 9 gate" in lines


def test_lint_exits_with_1_on_a_finding() -> None:
    arguments = ["lint", f"{ZOO}:Overwriting", "--input", "2x4"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 1
    assert result.stdout.startswith("overwritten-shortcut")
    assert "zoo.py:" in result.stdout
    found = json.loads(CliRunner().invoke(cli.app, [*arguments, "--json"]).stdout)
    assert [finding["rule"] for finding in found["findings"]] == ["overwritten-shortcut"]
    assert "no findings" in run(*arguments, "--kwargs", '{"inplace": false}')


def test_diff_of_a_model_with_itself_and_with_another(tmp_path: Path) -> None:
    (tmp_path / "skips.json").write_text(run("find", "resnet20", "--json"))
    assert run("diff", str(tmp_path / "skips.json"), "resnet20") == "no difference\n"
    arguments = ["diff", str(tmp_path / "skips.json"), "resnet20", "--other-kwargs", '{"skip": "B"}']
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 1
    assert "~ layer2.0: shortcut resample → projection" in result.stdout
    assert "skips: 0 removed, 0 added, 2 changed" in result.stdout
    found = json.loads(CliRunner().invoke(cli.app, [*arguments, "--json"]).stdout)
    assert (found["schema"], found["differ"], len(found["changed"])) == ("skiplab.diff/2", True, 2)


def test_census_json_has_exact_numbers_of_any_size() -> None:
    found = json.loads(run("census", "resnet110", "--json"))
    assert found["schema"] == "skiplab.census/1"
    assert found["paths"] == str(2**54)
    assert (found["nonlinearities"]["min"], found["nonlinearities"]["max"]) == (55, 109)
    assert found["nonlinearities"]["by_kind"]["activation"] == {"min": 55, "max": 109}
    assert sum(map(int, found["histogram"].values())) == 2**54


def test_census_of_a_transformer_with_and_without_norms() -> None:
    assert "0 to 24, norms not counted" in run("census", "torchvision:vit_b_16")
    assert "1 to 49" in run("census", "torchvision:vit_b_16", "--count-norms")


def test_token_ids_and_kwargs() -> None:
    assert "1 skip: 1 add/identity" in run("find", f"{ZOO}:Tokens", "--input", "2x7:int64")
    assert "1 skip" in run("find", f"{ZOO}:bare", "--input", "2x4", "--kwargs", '{"width": 3}')


def test_a_network_that_reads_values_is_found_with_a_note() -> None:
    result = CliRunner().invoke(cli.app, ["find", f"{ZOO}:Undecided", "--input", "1x5"])
    assert result.exit_code == 0
    assert "the graph holds for such data alone, since Python reads values of them" in " ".join(result.stderr.split())


def test_study_list() -> None:
    assert "depth: Does a deep network train" in run("study", "list")


def test_help_of_a_study_names_what_it_varies(monkeypatch: pytest.MonkeyPatch) -> None:
    from skiplab.study.question import load_study

    monkeypatch.setenv("COLUMNS", "80")
    text = run("study", "norm", "--help")
    assert max(map(len, text.splitlines())) <= 80
    told = [line.split() for line in text.partition("What is varied:")[2].splitlines() if line]
    study = load_study("norm")
    quick, full = study.grids["quick"], study.grids["full"]
    assert ["--grid", "warmup=", "false,true"] in told
    deep = (",".join(map(str, grid.axes["depth"])) for grid in (study.grids["default"], quick))
    assert ["--grid", "depth=", "{} (--quick {})".format(*deep)] in [[*line[:2], " ".join(line[2:])] for line in told]
    assert [*study.variants] == next(line[1] for line in told if line[0] == "--variants").split(",")
    assert ["--seeds", "3", "(--full", f"{full.seeds})"] in told


def test_help_and_version_need_no_torch() -> None:
    code = "import sys; sys.argv = ['skiplab', *{!r}]; import skiplab.cli as c, atexit; " + (
        "atexit.register(lambda: print('TORCH' if 'torch' in sys.modules else 'LIGHT')); c.main()"
    )
    for flags in (["--help"], ["--version"], ["study", "--help"], ["edit", "--help"]):
        done = subprocess.run([sys.executable, "-c", code.format(flags)], capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert done.stdout.strip().endswith("LIGHT")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["find", "missing.py:net"], 3, "there is no file missing.py"),
        (["find", f"{ZOO}:Raises", "--input", "1x4"], 3, "ValueError|sky is falling"),
        (["find", f"{ZOO}:bare", "--input", "1x5"], 3, "`first`"),
        (["find", f"{ZOO}:bare", "--input", "1by5"], 2, "--input 1by5"),
        (["find", f"{ZOO}:bare", "--input", "1x4", "--kwargs", "{width: 3}"], 2, "--kwargs"),
        (["find", f"{ZOO}:with_tensor", "--expect", "2"], 1, "expected 2 skips, found 1"),
        (["find", f"{ZOO}:bare", "--input", "1x4", "--prove", "--meta"], 2, "leave out --meta"),
        (["find", f"{ZOO}:bare", "--input", "1x4", "--prove", "--train"], 2, "leave out --train"),
        (["diff", "none.json", "resnet20"], 4, "there is no file none.json"),
        (["diff", "resnet20"], 2, "OTHER"),
        (["census", "resnet20", "--output", "3"], 2, "output=3"),
        (["lint", "missing.py:net"], 3, "there is no file missing.py"),
        (["find", f"{ZOO}:bare", "--input", "1x4", "--weights", "none.pt"], 4, "there is no file none.pt"),
        (["study", "depth", "--grid", "depth=9"], 2, "6n + 2"),
        (["study", "depth", "--grid", "depth=8;9"], 2, "write comma-separated whole numbers"),
        (["study", "depth", "--grid", "width=8"], 2, "write depth=…"),
        (["study", "depth", "--variants", "plane"], 2, "no variant 'plane'"),
        (["study", "depth", "--quick", "--full"], 2, "exclude each other"),
        (["study", "depth", "--seeds", "0"], 2, "at least one"),
        (["study", "depth", "--epochs", "0"], 2, "epochs"),
        (["study", "depth", "--out", "/dev/null/x"], 4, "cannot write"),
        (["find"], 2, "MODEL"),
        *(
            ([*words.split(), "--report", "x.pdf"], 2, "--report x.pdf: pages are HTML or Markdown: give x.html")
            for words in (
                "study depth",
                "study compare a b --data digits",
                "find a",
                "census a",
                "measure a --data digits",
                "train a --data digits",
                "prune a --data digits",
            )
        ),
    ],
)
def test_one_clear_error_and_its_exit_code(
    arguments: list[str],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["skiplab", *arguments])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    signal.signal(signal.SIGTERM, handler)
    printed = capsys.readouterr()
    assert stopped.value.code == code
    assert any(word in printed.err for word in words.split("|"))
    assert printed.out == "" or code == 1
    assert "Traceback" not in printed.err


def test_a_traceback_only_when_asked_for() -> None:
    plain, debug = process("find", "missing.py:net"), process("find", "missing.py:net", "--debug")
    assert plain.returncode == 3
    assert plain.stderr.count("\n") == 1
    assert "Traceback" in debug.stderr


STUDY = ("study", "depth", "--grid", "depth=8", "--seeds", "1", "--epochs", "2", "--workers", "1", "--json")


def test_a_study_interrupted_and_repeated_ends_as_one_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped or killed in the middle it leaves whole runs; the same command then goes on from there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKIPLAB_CACHE", str(tmp_path / "whole"))
    whole = run(*STUDY, "--out", "out")
    _check_kept(tmp_path)
    for how, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        store = tmp_path / how.name
        assert _ended_by(how, store) == code
        before = {path: path.stat().st_mtime_ns for path in store.rglob("done.json")}
        monkeypatch.setenv("SKIPLAB_CACHE", str(store))
        again = CliRunner().invoke(cli.app, STUDY, catch_exceptions=False)
        assert again.exit_code == 0, again.output
        assert f"{len(before)} of 3 runs are already finished" in again.stderr
        assert all(path.stat().st_mtime_ns == time_ for path, time_ in before.items())
        assert _without_seconds(again.stdout) == _without_seconds(whole)


def _ended_by(how: signal.Signals, store: Path) -> int:
    """The exit code of the study that gets this signal when its first run has finished."""
    # A runner that is itself in the background hands on that it ignores Ctrl-C.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        [sys.executable, "-m", "skiplab.cli", *STUDY],
        env={**os.environ, "SKIPLAB_CACHE": str(store)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=heed,
    ) as stopped:
        _wait_for(store, 1)
        os.killpg(stopped.pid, how)
        return stopped.wait(60)


def _wait_for(store: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(store.rglob("done.json"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _without_seconds(text: str) -> dict:
    result = json.loads(text)
    for table in result["tables"].values():
        for row in table:
            row.pop("seconds", None)
    return result


def _check_kept(folder: Path) -> None:
    """The page and, with --out, every table, chart and the config."""
    page = (folder / "skiplab-depth.html").read_text()
    assert page.startswith("<!doctype html>")
    names = {path.name for path in (folder / "out").iterdir()}
    assert {"config.json", "summary.parquet", "lesion.parquet", "gradient.parquet"} <= names
    assert sum(name.endswith(".png") for name in names) == sum(name.endswith(".svg") for name in names) >= 5
