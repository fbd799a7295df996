"""Synthetic results with the shapes, gaps and odd values that real ones have. No network is run for them."""

import math
import random
from dataclasses import dataclass

import pandas as pd

from skiplab.report.figure_spec import Figure

VARIANTS = ("plain", "post-activation", "pre-activation")
DEPTHS = (20, 56)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Answer:
    """What `study_page` asks of a result."""

    tables: dict[str, pd.DataFrame]
    figures: tuple[Figure, ...]
    question: str = "Does it train?"
    method: str = ""
    sentences: tuple[str, ...] = ()

    def overview(self) -> pd.DataFrame:
        return self.tables["summary"]


def study(depths=DEPTHS, seeds=SEEDS, names=VARIANTS) -> dict[str, pd.DataFrame]:
    """All tables of a depth study; at the greatest depth the plain network's last seed diverged."""
    random.seed(7)
    nets = [(name, depth) for name in names for depth in depths]
    tables = {"spine": _rows(_spine, nets), "skips": _rows(_skips, nets)}
    trained = [(name, depth, seed) for name, depth in nets for seed in seeds]
    lost = {("plain", max(depths), max(seeds))} if len(seeds) > 1 else set()
    tables["curves"] = pd.concat([_curve(*run, run in lost) for run in trained], ignore_index=True)
    tables["runs"] = _runs(tables["curves"], lost)
    tables["summary"] = tables["error_by_depth_means"] = _summary(tables["runs"], tables["skips"])
    tables["gradient"] = pd.concat([_gradient(tables["spine"], *run, run in lost) for run in trained])
    tables["contribution"] = pd.concat([_contribution(tables["skips"], *run) for run in trained])
    tables["lesion"] = pd.concat([_lesion(tables["skips"], *run) for run in trained])
    merges = tables["contribution"][["variant", "depth", "seed", "id"]]
    tables["merge_gradient"] = merges.assign(when="initialization", gradient_norm=tables["contribution"]["ratio"] ** 2)
    tables["histogram"] = pd.concat([_histogram(*net) for net in nets], ignore_index=True)
    tables["census"] = _census(tables["histogram"])
    tables["witness"] = pd.concat([_witness(tables["spine"], *net) for net in nets], ignore_index=True)
    return tables


def unet(levels: int = 4, size: int = 256) -> dict[str, pd.DataFrame]:
    """A U-Net: two convolutions a level, a long concatenating skip from every level to its mirror image."""
    spine, skips, forks, order, last = [], [], {}, 0, 0

    def add(name: str, kind: str, resolution: float) -> int:
        nonlocal order
        spine.append(("unet", 0, order, name, name.rsplit(".", 1)[0], kind, resolution))
        order += 1
        return order - 1

    for level in [*range(levels), levels, *reversed(range(levels))]:
        way = "up" if level in forks else "down"
        resolution = size / 2**level
        if way == "up":
            add(f"up{level}.upsample", "resample", resolution)
            merge = add(f"up{level}.cat", "concat", resolution)
            skips.append((f"up{level}", "concat", "identity", forks[level], merge, resolution))
        for name, kind in 2 * (("conv", "weight"), ("norm", "norm"), ("relu", "activation")):
            last = add(f"{way}{level}.{name}", kind, resolution)
        forks[level] = last
        if way == "down" and level < levels:
            add(f"down{level}.pool", "maxpool", resolution / 2)
    frame = pd.DataFrame(spine, columns=["variant", "depth", "order", "name", "module", "kind", "resolution"])
    rows = [
        _skip(("unet", 0), name, (fork, merge), (size, size), combine=combine, shortcut=kind)
        | {"fork_resolution": resolution, "merge_resolution": resolution}
        for name, combine, kind, fork, merge, resolution in skips
    ]
    return {"spine": frame, "skips": pd.DataFrame(rows)}


def dense(layers: int = 12) -> dict[str, pd.DataFrame]:
    """A dense block: every layer's merge reuses all earlier outputs, one skip for each."""
    spine = [("dense", 0, 3 * i + j, f"layer{i}.{kind}", f"layer{i}", kind, 8.0)
             for i in range(layers + 1) for j, kind in enumerate(("norm", "weight", "concat"))]  # fmt: skip
    rows = [
        _skip(("dense", 0), f"layer{merge}:{fork}", (3 * fork + 2, 3 * merge + 2), (8, 8), combine="concat")
        for merge in range(1, layers + 1)
        for fork in range(merge)
    ]
    frame = pd.DataFrame(spine, columns=["variant", "depth", "order", "name", "module", "kind", "resolution"])
    return {"spine": frame, "skips": pd.DataFrame(rows)}


def _rows(make, nets) -> pd.DataFrame:
    return pd.DataFrame([row for net in nets for row in make(*net)], columns=None)


def _blocks(depth: int) -> list[tuple[str, int, bool]]:
    """(module path, resolution, whether it halves the resolution) for the blocks of a CIFAR ResNet."""
    each = (depth - 2) // 6
    return [(f"stage{s + 1}.{b}", 32 >> s, s > 0 and b == 0) for s in range(3) for b in range(each)]


def _spine(name: str, depth: int) -> list[dict]:
    steps = [("stem.conv", "weight", 32), ("stem.norm", "norm", 32), ("stem.relu", "activation", 32)]
    for path, size, _ in _blocks(depth):
        body = [("conv1", "weight"), ("norm1", "norm"), ("relu1", "activation"), ("conv2", "weight"), ("norm2", "norm")]
        if name == "pre-activation":
            body = [body[1], body[2], body[0], body[4], ("relu2", "activation"), body[3]]
        body += [("add", "add")] if name != "plain" else []
        body += [("relu2", "activation")] if name != "pre-activation" else []
        steps += [(f"{path}.{step}", kind, size) for step, kind in body]
    steps += [("pool", "pool", 1), ("head", "weight", 1)]
    return [
        {
            "variant": name,
            "depth": depth,
            "order": order,
            "name": step.replace(".", "_"),
            "module": step,
            "kind": kind,
            "resolution": float(size),
        }
        for order, (step, kind, size) in enumerate(steps)
    ]


def _skip(net, path, orders, sizes, combine="add", shortcut="identity") -> dict:
    return {
        "variant": net[0],
        "depth": net[1],
        "id": path,
        "path": path,
        "combine": combine,
        "shortcut": shortcut,
        "fork": f"n{orders[0]}",
        "merge": f"n{orders[1]}",
        "weight_layers": 2,
        "activation_after": "relu" if net[0] == "post-activation" else None,
        "source": "resnet.py:71",
        "fork_order": orders[0],
        "merge_order": orders[1],
        "fork_resolution": float(sizes[0]),
        "merge_resolution": float(sizes[1]),
    }


def _skips(name: str, depth: int) -> list[dict]:
    if name == "plain":
        return []
    orders = {row["module"]: row["order"] for row in _spine(name, depth)}
    found, last, size_before = [], 2, 32
    for path, size, halves in _blocks(depth):
        kind = "resample" if halves else "identity"
        merge = orders[f"{path}.add"]
        found.append(_skip((name, depth), path, (last, merge), (size_before, size), shortcut=kind))
        last, size_before = merge + (name == "post-activation"), size
    return found


def _curve(name: str, depth: int, seed: int, lost: bool) -> pd.DataFrame:
    hard = {"plain": 0.02 + 0.004 * max(depth - 20, 0), "post-activation": 0.02, "pre-activation": 0.015}[name]
    rows = []
    for epoch in range(1, 31):
        broken = lost and epoch > 9
        train = hard + 0.85 * math.exp(-epoch / 6) + random.gauss(0, 0.008)
        rows.append(
            {
                "variant": name,
                "depth": depth,
                "seed": seed,
                "epoch": epoch,
                "train_loss": math.inf if lost and epoch == 10 else math.nan if broken else max(2.2 * train, 0.01),
                "train_error": 0.9 if broken else max(train, 0.001),
                "test_error": 0.9 if broken else max(train + 0.06 + random.gauss(0, 0.006), 0.01),
                "gradient_norm": math.nan if broken else abs(random.gauss(1, 0.2)),
            }
        )
    return pd.DataFrame(rows)


def _runs(curves: pd.DataFrame, lost: set) -> pd.DataFrame:
    last = curves.groupby(["variant", "depth", "seed"]).last(skipna=False).reset_index()
    keys = zip(last["variant"], last["depth"], last["seed"], strict=True)
    last["status"] = ["diverged" if key in lost else "ok" for key in keys]
    last["test_loss"], last["parameters"], last["seconds"] = last["train_loss"] * 1.2, last["depth"] * 13_580, 31.7
    return last.drop(columns=["epoch", "gradient_norm"])


def _summary(runs: pd.DataFrame, skips: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (name, depth), own in runs.groupby(["variant", "depth"]):
        kept = own[own["status"] == "ok"]
        count = len(skips[(skips["variant"] == name) & (skips["depth"] == depth)])
        row = {"variant": name, "depth": depth, "seeds": len(own), "diverged": len(own) - len(kept)}
        for measure in ("train_error", "test_error"):
            mean, half = kept[measure].mean(), 2.2 * kept[measure].std()
            row |= {measure: mean, f"{measure}_low": mean - half, f"{measure}_high": mean + half}
        row |= {
            "parameters": int(str(depth)) * 13_580,
            "skips": count,
            "fewest": 1 if name == "pre-activation" else int(str(depth)) // 2,
        }
        rows.append(row | {"paths": str(2**count)})
    return pd.DataFrame(rows)


def _gradient(spine: pd.DataFrame, name: str, depth: int, seed: int, lost: bool) -> pd.DataFrame:
    layers = spine[(spine["variant"] == name) & (spine["depth"] == depth) & (spine["kind"] == "weight")]
    rows = []
    for when in ("initialization", "trained"):
        for index, layer in enumerate(layers.itertuples(index=False)):
            decay = 0.25 * (len(layers) - index) if name == "plain" else 0.02 * index
            norm = math.exp(-decay + random.gauss(0, 0.2)) * (0.3 if when == "trained" else 1)
            norm = math.nan if lost and when == "trained" else 0.0 if name == "plain" and index == 1 else norm
            rows.append((name, depth, seed, when, layer.module, layer.order, norm))
    columns = ["variant", "depth", "seed", "when", "layer", "order", "gradient_norm"]
    return pd.DataFrame(rows, columns=columns)


def _contribution(skips: pd.DataFrame, name: str, depth: int, seed: int) -> pd.DataFrame:
    own = skips[(skips["variant"] == name) & (skips["depth"] == depth)][["variant", "depth", "id"]]
    ratio = [0.2 + 1.2 / (1 + i) + random.random() / 5 for i in range(len(own))]
    return own.assign(seed=seed, ratio=ratio, cosine=[random.uniform(-0.6, 0.4) for _ in ratio])


def _lesion(skips: pd.DataFrame, name: str, depth: int, seed: int) -> pd.DataFrame:
    own = skips[(skips["variant"] == name) & (skips["depth"] == depth)]
    hurts = [3.0 if kind == "resample" else 0.4 for kind in own["shortcut"]]
    loss = [hurt * random.random() ** 2 - 0.03 for hurt in hurts]
    if seed and len(loss) > 4:
        loss[4] = math.inf
    frame = own[["variant", "depth", "id"]].assign(seed=seed, order=range(len(own)), loss_change=loss)
    return frame.assign(error_change=[value / 5 for value in loss])


def _histogram(name: str, depth: int) -> pd.DataFrame:
    blocks = len(_blocks(depth))
    low, each = (2 * blocks + 1, 0) if name == "plain" else (blocks + 1, 1) if name == "post-activation" else (1, 2)
    taken = range(blocks + 1) if each else (0,)
    ways = [math.comb(blocks, k) if each else 1 for k in taken]
    return pd.DataFrame(
        {
            "variant": name,
            "depth": depth,
            "nonlinearities": [low + each * k for k in taken],
            "paths": [str(way) for way in ways],
            "share": [way / sum(ways) for way in ways],
        }
    )


def _census(histogram: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (name, depth), own in histogram.groupby(["variant", "depth"]):
        total = sum(int(paths) for paths in own["paths"])
        fewest, most = own["nonlinearities"].min(), own["nonlinearities"].max()
        rows.append({"variant": name, "depth": depth, "paths": str(total), "fewest": fewest, "most": most})
    return pd.DataFrame(rows)


def _witness(spine: pd.DataFrame, name: str, depth: int) -> pd.DataFrame:
    own = spine[(spine["variant"] == name) & (spine["depth"] == depth)]
    if name != "plain":
        inside = own["module"].str.match(r"stage\d\.\d+\.(conv|norm|relu1)")
        after = own["module"].str.endswith("relu2") & (name == "pre-activation")
        own = own[~(inside | after)]
    frame = own[["variant", "depth", "name", "module", "kind"]]
    return frame.assign(step=range(len(frame)))
