"""Lesions of the long skips of a trained U-Net, and its paths grouped by the long skip they take.

Levels are those of `skiplab.models.unet`: 0 is the input's resolution.
"""

from typing import Any

import pandas as pd
from torch import nn

from skiplab import measure
from skiplab.analysis.finder import find
from skiplab.analysis.path_census import Census, census
from skiplab.analysis.skips import Skips
from skiplab.data import DataSet
from skiplab.edit import remove_branch, remove_shortcut
from skiplab.graph.capture import capture
from skiplab.study.segmentation_errors import balanced_errors

BATCH = 64


def lesion_table(model: nn.Module, data: DataSet) -> pd.DataFrame:
    """Errors after replacing what a long skip, or the branch below it, brings to the merge.

    One row per level ("all": all levels together), way ("long skip" or "way below"), replacement ("zero" or "noise")
    and batchnorm (as in `skiplab.measure.lesion`). Columns edge and inside (balanced errors on the test part),
    edge_change and inside_change.
    """
    program = capture(model, (data.test.x[:BATCH],))
    skips = Skips(skip for skip in find(program) if skip.long)
    level = {skip.id: str(skip.path.count("inner")) for skip in skips}
    batches = list(zip(data.test.x.split(BATCH), data.test.y.split(BATCH), strict=True))
    error = balanced_errors(data.test)
    alone, together = [[each] for each in level], [list(level)]
    tables = []
    for way, kinds, groups in (
        ("long skip", ("shortcut", "shortcut-noise"), alone),
        ("long skip", ("shortcut", "shortcut-noise"), together if len(level) > 1 else []),
        ("way below", ("branch", "noise"), alone),
    ):
        if groups:
            options: Any = {"kinds": kinds, "groups": groups, "reestimate": True}
            table = measure.lesion(program, skips, batches, error.edge, error.inside, **options)
            tables.append(table.assign(way=way, level=table["id"].map(level).fillna("all")))
    found = pd.concat(tables, ignore_index=True)
    found["replacement"] = ["noise" if kind.endswith("noise") else "zero" for kind in found["kind"]]
    names = {"loss": "edge", "metric": "inside", "loss_change": "edge_change", "metric_change": "inside_change"}
    return found.rename(columns=names)[["way", "level", "replacement", "batchnorm", *names.values()]]


def route_table(model: nn.Module, data: DataSet) -> pd.DataFrame:
    """The paths through the network, grouped by the long skip they take; "bottom" are those that take none.

    One row per route: route ("level 0", …, "bottom"), resolution (side of the image there), paths, and the fewest and
    most nonlinearities and weight layers on one of them.
    """
    side = data.train.x.shape[-1]
    whole = capture(model, (data.train.x[:2],))
    paths = [skip.path for skip in find(whole) if skip.long]
    rows, program = [], whole
    for path in sorted(paths, key=len):
        level, here = path.count("inner"), find(program)
        turning = remove_branch(program, _long_skip(here, path))
        rows.append((f"level {level}", side // 2**level, *_path_counts(census(turning))))
        program = remove_shortcut(program, _long_skip(here, path))
    bottom = side // 2 ** sum(isinstance(module, nn.MaxPool2d) for module in model.modules())
    rows.append(("bottom", bottom, *_path_counts(census(program))))
    columns = ["route", "resolution", "paths", "fewest", "most", "fewest_weight_layers", "most_weight_layers"]
    return pd.DataFrame(rows, columns=columns)


def _long_skip(skips: Skips, path: str) -> Skips:
    return Skips(skip for skip in skips if skip.long and skip.path == path).expect(1)


def _path_counts(paths: Census) -> tuple[int, ...]:
    ranges = (paths.nonlinearities, paths.weight_layers)
    return (paths.paths, *(end for each in ranges for end in (each.min, each.max)))
