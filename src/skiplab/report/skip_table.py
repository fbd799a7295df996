"""One row per skip: its description, its rank, and the means over seeds of its measures."""

import pandas as pd

from skiplab.report.json_data import finite, number

FACTS = {
    "id": "skip",
    "path": "module",
    "combine": "combine",
    "shortcut": "shortcut",
    "weight_layers": "weight layers",
    "activation_after": "activation after",
    "source": "source",
}
MEASURED = {
    "loss_change": "loss change",
    "error_change": "error change",
    "ratio": "‖F(x)‖ / ‖x‖",
    "cosine": "cosine",
    "gradient_norm": "‖∂loss/∂merge‖",
}
_KEYS = ["variant", "depth", "id"]


def skip_records(
    skips: pd.DataFrame,
    lesion: pd.DataFrame | None = None,
    contribution: pd.DataFrame | None = None,
    gradient: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The skips with `key` (row number), `rank` (1 = first from the input) and, for every measured column,
    its mean over the seeds with a finite value, `<column>_lost` (seeds without one) and `<column>_text`.

    Frames as `skip_charts` takes them.
    """
    record = skips.reset_index(drop=True)
    for column in FACTS:
        record[column] = pd.Series([_text(value) for value in record[column]], dtype="str")
    record["key"] = range(len(record))
    ordered = record.sort_values(["merge_order", "fork_order"], kind="stable")
    record["rank"] = ordered.groupby(_KEYS[:2]).cumcount().reindex(record.index) + 1
    if lesion is not None:
        record = _join_means(record, lesion, ["loss_change", "error_change"])
    if contribution is not None:
        record = _join_means(record, contribution, ["ratio", "cosine"])
    if gradient is not None:
        record = _join_means(record, gradient, ["gradient_norm"])
    return record


def _join_means(record: pd.DataFrame, measured: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The record with the measured columns' means, missing counts and texts."""
    numbers = measured[_KEYS].astype({"id": "str"}).assign(**{column: finite(measured[column]) for column in columns})
    groups = numbers.groupby(_KEYS)[columns]
    counts = groups.size().rename("seeds")
    parts = [groups.mean(), groups.agg(lambda column: column.isna().sum()).add_suffix("_lost"), counts]
    record = record.merge(pd.concat(parts, axis=1).reset_index(), on=_KEYS, how="left")
    for column in columns:
        cells = zip(record[column], record[f"{column}_lost"], record["seeds"], strict=True)
        record[f"{column}_text"] = [_format_mean(*map(float, cell)) for cell in cells]
    return record.drop(columns="seeds")


def _format_mean(mean: float, lost: float, seeds: float) -> str:
    """A measured value for a tooltip: the mean and the number of seeds."""
    if not seeds > 0:
        return "not measured"
    if lost == seeds:
        return f"not finite ({seeds:.0f} of {seeds:.0f} seeds)"
    over = f"{seeds:.0f} seed{'s' if seeds > 1 else ''}" if not lost else f"{seeds - lost:.0f} of {seeds:.0f} seeds"
    return f"{number(mean)} ({over})"


def _text(value: object) -> str:
    """A cell of a skip's record as text; "–" for a missing value."""
    if isinstance(value, list | tuple):
        return ", ".join(str(part) for part in value) or "–"
    return "–" if value is None or value is pd.NA or value != value else str(value)
