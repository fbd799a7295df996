"""The result of pruning as a table for people and in sentences."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from skiplab.stats.columns import Column
from skiplab.stats.wording import ends_of, plural, within

Quantity = Literal["error", "metric", "loss"]

COLUMNS = (
    Column("removed", "removed", "text"),
    Column("left", "blocks"),
    Column("parameters", "parameters", "share"),
    Column("FLOPs", "flops", "share"),
    Column("time", "latency_ratio", "share"),
    Column("error", "metric", "interval"),
    Column("loss", "loss", "interval"),
)


@dataclass(frozen=True)
class PruningSummary:
    """A frontier, and its chosen network after training, if it was trained.

    Attributes:
        frontier, chosen: see `skiplab.pruning.Pruned`.
        quantity: what is compared: "error" is a metric that is a share of samples. None: the metric, if there is one,
            else the loss.
        finetuned: the row of the chosen network after fine-tuning, if it was fine-tuned.
        epochs: epochs of fine-tuning.
    """

    frontier: pd.DataFrame
    chosen: int
    quantity: Quantity | None = None
    finetuned: Mapping[str, Any] | None = None
    epochs: int = 0

    @property
    def name(self) -> Quantity:
        """The quantity that is compared."""
        return self.quantity or ("metric" if "metric" in self.frontier else "loss")

    def table(self) -> pd.DataFrame:
        """The frontier with parameters and FLOPs as shares of the whole network's; no loss where there is a metric."""
        table = self.frontier.assign(removed=[name or "(none)" for name in self.frontier["removed"]])
        if self.finetuned is not None:
            last = {**table.iloc[self.chosen].to_dict(), **self.finetuned, "removed": "(fine-tuned)"}
            table = pd.concat([table, pd.DataFrame([last])], ignore_index=True)
        whole = self.frontier.iloc[0]
        shares = {name: table[name] / whole[name] for name in ("parameters", "flops")}
        return table.assign(**shares).drop(columns="loss" if "metric" in table else [])

    def answer(self) -> list[str]:
        """What was removed, what it saves and what it costs."""
        return [*self._removed(), *self._costs()]

    def _removed(self) -> Iterator[str]:
        whole, chosen = self.frontier.iloc[0], self.frontier.iloc[self.chosen]
        removed = int(whole["blocks"] - chosen["blocks"])
        if not removed:
            yield f"No block can be removed: without the first one, the {self.name} is over the limit."
            return
        names = ", ".join(self.frontier["removed"][1 : self.chosen + 1])
        count = plural(int(whole["blocks"]), "block")
        yield f"{removed} of {count} ({removed / whole['blocks']:.0%}) are removed, in this order: {names}."
        wording = {"parameters": "parameters", "flops": "FLOPs"}
        shares = [f"{chosen[name] / whole[name]:.0%} of the {words}" for name, words in wording.items() if whole[name]]
        yield (
            f"The smaller network has {' and '.join(shares)}, and takes {chosen['latency_ratio']:.0%} of the time "
            f"(median ratio to the whole network in one run; {chosen['latency_ratio_min']:.0%} by the fastest rounds)."
        )

    def _costs(self) -> Iterator[str]:
        if self.chosen:
            yield self._cost(self.frontier.iloc[self.chosen], "without training")
        if self.finetuned is not None:
            yield self._cost(pd.Series(self.finetuned), f"after {plural(self.epochs, 'epoch')} of training")

    def _cost(self, smaller: pd.Series, when: str) -> str:
        column = "loss" if self.name == "loss" else "metric"
        before, change = self.frontier.iloc[0][column], smaller[f"{column}_change"]
        low, high = ends_of(smaller, f"{column}_change")
        form, change_form, unit, factor = (
            (".1%", "+.1f", " points", 100) if self.name == "error" else (".4g", "+.3g", "", 1)
        )
        verdict = (
            "no clear change" if low <= 0 <= high else "a rise" if low > 0 else "a fall" if high < 0 else "a change"
        )
        return (
            f"The {self.name} goes from {before:{form}} to {smaller[column]:{form}} {when}: {verdict}, "
            f"{factor * change:{change_form}}{unit}{within((factor * low, factor * high), change_form)}."
        )
