"""Error and time of a pruned residual network, compared with removing blocks at random, the first or the last.

    python benchmarks/prune.py                                   # ResNet-56 on digits, trained here, 3 seeds
    python benchmarks/prune.py --data cifar10 --weights weights/resnet56-0.safetensors --learn 5000 --judge 5000

Each order removes the same number of blocks, re-estimates batch norm statistics on the same training samples, and is
fine-tuned by the same recipe on the same images. So is the whole network, since more training may improve it too. The
error is that of the whole test part, with its change relative to the whole network before fine-tuning, by seed and as
mean with Student's 95 % interval. Time is measured in turns with the whole network, in one run.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from cifar import FOLDER, read
from safetensors.torch import load_file
from torch import Tensor, nn

import skiplab
from skiplab.data import DataSet, Split, batches, digits
from skiplab.models import resnet
from skiplab.pruning import Evaluator, finetuned
from skiplab.stats.intervals import student

ORDERS = ("lesion", "influence", "random", "first", "last")


def error(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) != target).float()


def subset(split: Split, size: int, seed: int) -> Split:
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:size]
    return Split(split.x[chosen], split.y[chosen])


def trained(arguments: argparse.Namespace, data: DataSet, seed: int) -> nn.Module:
    """From the file of weights, or trained for this."""
    torch.manual_seed(seed)
    model = resnet(arguments.depth, in_channels=data.train.x.shape[1], num_classes=data.classes or 1)
    if arguments.weights:
        model.load_state_dict(load_file(arguments.weights))
        return model
    recipe = skiplab.Recipe(epochs=arguments.epochs, warmup_epochs=1, seed=seed)
    return skiplab.fit(model, data, recipe).model


def rows(arguments: argparse.Namespace, data: DataSet, seed: int) -> Iterator[dict[str, object]]:
    """One a network and state of training."""
    model = trained(arguments, data, seed)
    program = skiplab.capture(model, (data.train.x[:4],))
    skips = skiplab.find(program)
    ranked_on = list(batches(subset(data.train, 512, seed), 128))
    test = subset(data.test, arguments.judge or len(data.test), 0)
    judged = list(batches(test, 60))
    learn = DataSet(data.name, subset(data.train, arguments.learn or len(data.train), seed), data.test, data.classes)
    recipe = skiplab.Recipe(epochs=arguments.finetune, learning_rate=arguments.learning_rate, seed=seed)
    evaluator = Evaluator(program, judged, F.cross_entropy, error, seed)
    networks = {"whole": (program, 0)}
    for by in arguments.orders.split(","):
        options = {"by": by, "keep": arguments.keep, "seed": seed, "greedy": not arguments.one_shot}
        pruned = skiplab.prune(program, skips, ranked_on, judged[:1], F.cross_entropy, error, **options)
        networks[by] = pruned.program, len(skips) - int(pruned.frontier["blocks"].iloc[-1])
    for name, (network, gone) in networks.items():
        for state, each in (("pruned", network), ("fine-tuned", finetuned(network, learn, recipe))):
            yield {"seed": seed, "order": name, "state": state, "removed": gone / len(skips), **evaluator.row(each)}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds; of the error's change with its interval."""
    found = []
    for (order, state), group in table.groupby(["order", "state"], sort=False):
        change = student(group["metric_change"])
        found.append(
            {
                "order": order,
                "state": state,
                "blocks removed": f"{group['removed'].mean():.0%}",
                "parameters": f"{(group['parameters'] / table['parameters'].max()).mean():.0%}",
                "time (median)": f"{group['latency_ratio'].mean():.2f}",
                "time (min)": f"{group['latency_ratio_min'].mean():.2f}",
                "error": f"{group['metric'].mean():.2%}",
                "change": f"{change.mean:+.2%}",
                "95 % interval": f"{change.low:+.2%} to {change.high:+.2%}",
            }
        )
    return pd.DataFrame(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--weights", type=Path, help="of a trained network; then seeds differ in all but its training")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--keep", type=float, default=0.7)
    parser.add_argument("--finetune", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--learn", type=int, default=0, help="images to fine-tune on; 0 for all")
    parser.add_argument("--judge", type=int, default=0, help="test images to judge by; 0 for all")
    parser.add_argument("--orders", default=",".join(ORDERS))
    parser.add_argument("--one-shot", action="store_true", help="rank once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="a CSV of all rows")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = digits()
    if arguments.data == "cifar10":
        data = DataSet("cifar10", read("train", arguments.folder), read("test", arguments.folder), classes=10)
    found = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for row in rows(arguments, data, seed):
            found.append(row)
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
            if arguments.out:
                pd.DataFrame(found).to_csv(arguments.out, index=False)
    print(summary(pd.DataFrame(found)).to_string(index=False))


if __name__ == "__main__":
    main()
