"""The page docs/coverage.md from the rows of a sweep: how many models are captured, and why the others are not."""

import datetime
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any

from sources import versions

Row = dict[str, Any]

# Why a model is not captured, by a pattern in its error message; the first that matches counts.
CAUSES = (
    (
        "No example inputs: `forward` takes what neither its name nor the configuration explains (ours to add)",
        r"no example (value|inputs)",
    ),
    (
        "The model decides by its data's values: lengths, boxes or masks become Python numbers or loops",
        r"data-dependent|Could not guard|\.item\(\)|guard on|Eq\(u0|nonzero|unbacked|tolist|"
        r"Tensor-likes are not close|cannot be called on meta|Cannot copy out of meta",
    ),
    ("The model returns an object that torch.export does not know", r"not a known type|pytree"),
    ("The model needs a kernel, a device or a package that is not there", r"ImportError|requires the|No module|CUDA"),
    ("Time or memory", r"^more than|worker process died|can't allocate|out of memory"),
)
OTHER = "The default configuration or our example inputs do not fit each other"

UNBUILT = (
    ("Part of another model: the configuration has no model class of its own", r"configuration of the whole model"),
    ("A package is missing that the library asks for", r"ImportError|requires the"),
    ("The default configuration builds nothing (values without defaults, or that contradict each other)", r""),
)


def page(rows: list[Row]) -> str:
    last = list({(row["source"], row["name"]): row for row in rows}.values())
    built = [row for row in last if row["status"] != "unbuilt"]
    lines = [
        "# Coverage: which networks of other libraries can be captured",
        "",
        f"Swept on {datetime.date.today()} with {', '.join(f'{k} {v}' for k, v in versions().items())}, by "
        "`python benchmarks/sweep.py --out sweep.jsonl` and `--table docs/coverage.md`. Every architecture name of "
        "timm and torchvision and every model type of transformers, with random weights, on the meta device (shapes "
        "without values; built for real where that fails). transformers' models have their default configuration, "
        "cut to two layers. Seconds are those of one core.",
        "",
        "*Built* is the number of models that the library itself can build. *Captured* means that the graph was "
        "exported, and `find` and `census` ran on it. A *crash* is an exception other than Skiplab's own errors.",
        "",
        "| library | names | built | captured | | crashes | seconds to capture: median, most | to find: median, most |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    sources = list(dict.fromkeys(row["source"] for row in last))
    lines += [_summary(source, [row for row in last if row["source"] == source]) for source in sources]
    lines += [_summary("all", last)] if len(sources) > 1 else []
    lines += ["", *_found(built), *_failures(built), *_unbuilt(last)]
    return "\n".join(lines).rstrip() + "\n"


def _summary(name: str, rows: list[Row]) -> str:
    status = Counter(row["status"] for row in rows)
    built = len(rows) - status["unbuilt"]
    share = f"{100 * status['captured'] / built:.1f} %" if built else ""
    times = [
        _range([r["stages"][stage] for r in rows if stage in r.get("stages", {})]) for stage in ("capture", "find")
    ]
    cells = [name, len(rows), built, status["captured"], share, status["crash"], *times]
    return "| " + " | ".join(map(str, cells)) + " |"


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}, {max(values):.1f}" if values else ""


def _found(rows: list[Row]) -> list[str]:
    captured = [row for row in rows if row["status"] == "captured"]
    kinds: Counter[str] = Counter()
    models: Counter[str] = Counter()
    for row in captured:
        for kind, count in [*row["skips"].items(), *((f"apart: {k}", n) for k, n in row["apart"].items())]:
            kinds[kind] += count
            models[kind] += 1
    none = sum(not row["skips"] for row in captured)
    lines = ["## What was found", "", "| kind | how many | in so many networks |", "| --- | ---: | ---: |"]
    lines += [f"| {kind} | {count} | {models[kind]} |" for kind, count in kinds.most_common()]
    return [*lines, "", f"{none} of {len(captured)} captured networks have no skip connection.", ""]


def _failures(rows: list[Row]) -> list[str]:
    failed = [row for row in rows if row["status"] not in ("captured", "unbuilt")]
    lines = ["## Not captured, and why", ""]
    crashes = [row for row in failed if row["status"] == "crash"]
    if not crashes:
        lines += ["No crash.", ""]
    else:
        lines += ["### Crashes (bugs of Skiplab)", "", *map(_entry, crashes), ""]
    rest = [row for row in failed if row["status"] != "crash"]
    causes = [(title, pattern) for title, pattern in CAUSES] + [(OTHER, "")]
    for title, mine in _grouped(rest, causes):
        lines += [f"### {title} ({len(mine)})", "", *map(_entry, mine), ""]
    return lines


def _unbuilt(rows: list[Row]) -> list[str]:
    lines = ["## Not counted: the library does not build it", ""]
    for title, mine in _grouped([row for row in rows if row["status"] == "unbuilt"], UNBUILT):
        names = ", ".join(f"`{row['name']}`" for row in sorted(mine, key=lambda row: row["name"]))
        lines += [f"**{title}** ({len(mine)}): {names}", ""]
    return lines


def _grouped(rows: list[Row], causes: Iterable[tuple[str, str]]) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {title: [] for title, _ in causes}
    for row in rows:
        groups[next(title for title, pattern in causes if re.search(pattern, row["reason"]))].append(row)
    return [(title, mine) for title, mine in groups.items() if mine]


def _entry(row: Row) -> str:
    where = f" ({row['where'].split(' < ')[0]})" if row.get("where") else ""
    return f"- `{row['source']}:{row['name']}`: {_short(row['reason'])}{where}"


def _short(reason: str) -> str:
    """One line, without the folders of the machine that ran it."""
    reason = re.sub(r"/\S*/site-packages/", "", reason).split("; try the same inputs")[0]
    reason = re.sub(r"^cannot capture \w+, in (its `forward`|`[^`]*`( \([^)]*\))?): ", "", reason)
    reason = reason.replace("<", "‹").replace(">", "›").replace("|", "/")
    return reason if len(reason) < 200 else reason[:200].rsplit(" ", 1)[0] + " …"
