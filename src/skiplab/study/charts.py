"""Figures that every study of whole networks can show: of the tables that `examine` and `structure` leave."""

from skiplab.report.figure_spec import Figure

CURVES = Figure(
    name="training-curves",
    heading="Training curves",
    how="One line a seed, at the end of each epoch in evaluation mode: solid is the training part, dashed the test "
    "part.",
    chart="curves",
    table="curves",
)
GRADIENT = Figure(
    name="gradient-by-layer",
    heading="Gradient by layer",
    how="Norm of the loss's gradient for each weight layer; thin lines are seeds, the thick one their geometric "
    "mean. A level line means that every layer learns at a like pace; with batch norm, deep plain networks tend to "
    "explode towards the input rather than vanish.",
    chart="gradient",
    table="gradient",
)
SKIPS = Figure(
    name="skips",
    heading="Skip connections",
    how="From left to right the network as it runs, by resolution; each arc is a skip connection over what it "
    "skips. Below each network, what its loss rises by when one branch is deleted without retraining, and how large "
    "the branch's output is beside the signal that it is added to; last, the size of the loss's gradient at the "
    "merge, before training.",
    chart="skips",
    table="skips",
)
CENSUS = (
    Figure(
        name="census",
        heading="Census",
        how="All paths from input to output, by the number of nonlinearities on them. Without skip connections "
        "there is one path.",
        chart="histogram",
        table="histogram",
    ),
    Figure(
        name="census-numbers",
        heading="Census in numbers",
        how="Exact counts.",
        chart="table",
        table="census",
        folded=True,
    ),
    Figure(
        name="witness",
        heading="The lightest path",
        how="Step by step, the path with the fewest nonlinearities in each network.",
        chart="table",
        table="witness",
        folded=True,
    ),
)
NETWORKS = (GRADIENT, SKIPS, *CENSUS)
