"""Figures that every study of whole networks can show: of the tables that `examine` and `structure` leave."""

from skiplab.report.figure_spec import Figure

CURVES = Figure(
    "training-curves",
    "Training curves",
    "One line a seed, at the end of each epoch in evaluation mode: solid is the training part, dashed the test part.",
    "curves",
    "curves",
)
GRADIENT = Figure(
    "gradient-by-layer",
    "Gradient by layer",
    "Norm of the loss's gradient for each weight layer; thin lines are seeds, the thick one their geometric mean. A "
    "level line means that every layer learns at a like pace; with batch norm, deep plain networks tend to explode "
    "towards the input rather than vanish.",
    "gradient",
    "gradient",
)
SKIPS = Figure(
    "skips",
    "Skip connections",
    "From left to right the network as it runs, by resolution; each arc is a skip connection over what it skips. Below "
    "each network, what its loss rises by when one branch is deleted without retraining, and how large the branch's "
    "output is beside the signal that it is added to; last, the size of the loss's gradient at the merge, before "
    "training.",
    "skips",
    "skips",
)
CENSUS = (
    Figure(
        "census",
        "Census",
        "All paths from input to output, by the number of nonlinearities on them. Without skip connections there is "
        "one path.",
        "histogram",
        "histogram",
    ),
    Figure("census-numbers", "Census in numbers", "Exact counts.", "table", "census", folded=True),
    Figure(
        "witness",
        "The lightest path",
        "Step by step, the path with the fewest nonlinearities in each network.",
        "table",
        "witness",
        folded=True,
    ),
)
NETWORKS = (GRADIENT, SKIPS, *CENSUS)
