"""What a pruning came to, in words and as the terminal shows it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from skiplab.stats.columns import Column
from skiplab.stats.wording import ends_of, plural, within

SHOWN = (
    Column("gone", "removed", "text"),
    Column("left", "blocks"),
    Column("parameters", "parameters", "share"),
    Column("FLOPs", "flops", "share"),
    Column("time", "latency_ratio", "share"),
    Column("error", "metric", "interval"),
    Column("loss", "loss", "interval"),
)


@dataclass(frozen=True)
class Result:
    """What is told.

    Attributes:
        frontier, chosen: see `skiplab.pruning.Pruned`.
        trained: the chosen network's row after fine-tuning, if it was.
        epochs: for how many epochs.
        name: of what is compared: "error", a share of samples; "metric", the user's own; or "loss".
    """

    model: str
    frontier: pd.DataFrame
    chosen: int
    name: str
    trained: Mapping[str, Any] | None = None
    epochs: int = 0


def rows(result: Result) -> pd.DataFrame:
    """The frontier, sizes and work as shares of the whole network's; where there is a metric, without the loss."""
    shown = result.frontier.assign(removed=[name or "(none)" for name in result.frontier["removed"]])
    if result.trained is not None:
        last = {**shown.iloc[result.chosen].to_dict(), **result.trained, "removed": "(fine-tuned)"}
        shown = pd.concat([shown, pd.DataFrame([last])], ignore_index=True)
    whole = result.frontier.iloc[0]
    shares = {name: shown[name] / whole[name] for name in ("parameters", "flops")}
    return shown.assign(**shares).drop(columns="loss" if "metric" in shown else [])


def sentences(result: Result) -> Iterator[str]:
    """What was removed, what it saves, and what it costs."""
    whole, chosen = result.frontier.iloc[0], result.frontier.iloc[result.chosen]
    gone = int(whole["blocks"] - chosen["blocks"])
    if not gone:
        yield f"No block can go: with one less, the {result.name} is over the limit."
        if result.trained is not None:
            yield _cost(result, pd.Series(result.trained), f"after {plural(result.epochs, 'epoch')} of training")
        return
    names = ", ".join(result.frontier["removed"][1 : result.chosen + 1])
    count = plural(int(whole["blocks"]), "block")
    yield f"{gone} of {count} ({gone / whole['blocks']:.0%}) are gone, in this order: {names}."
    saved = {"parameters": "parameters", "flops": "FLOPs"}
    shares = [f"{chosen[name] / whole[name]:.0%} of the {said}" for name, said in saved.items() if whole[name]]
    yield (
        f"What is left has {' and '.join(shares)}, and takes {chosen['latency_ratio']:.0%} of the time (median, beside "
        f"the whole network in one run; {chosen['latency_ratio_min']:.0%} by the fastest rounds)."
    )
    yield _cost(result, chosen, "without training")
    if result.trained is not None:
        yield _cost(result, pd.Series(result.trained), f"after {plural(result.epochs, 'epoch')} of training")


def _cost(result: Result, smaller: pd.Series, when: str) -> str:
    column = "loss" if result.name == "loss" else "metric"
    before, change = result.frontier.iloc[0][column], smaller[f"{column}_change"]
    ends = ends_of(smaller, f"{column}_change")
    form, change_form, unit, factor = (
        (".1%", "+.1f", " points", 100) if result.name == "error" else (".4g", "+.3g", "", 1)
    )
    low, high = ends
    verdict = "no clear change" if low <= 0 <= high else "a rise" if low > 0 else "a fall" if high < 0 else "a change"
    return (
        f"The {result.name} goes from {before:{form}} to {smaller[column]:{form}} {when}: {verdict}, "
        f"{factor * change:{change_form}}{unit}{within((factor * low, factor * high), change_form)}."
    )
