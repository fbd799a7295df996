"""Figures that every study of whole networks can show, from the tables of `train_and_measure`."""

from skiplab.report.figure_spec import Figure

HOW_POINTS = (
    "One point per seed; the tick is their mean, the line its 95 % interval (Student's t). A cross is a diverged run."
)
CURVES = Figure(
    name="training-curves",
    heading="Training curves",
    how="Error at the end of each epoch, in evaluation mode. One line per seed; solid: training part, dashed: test "
    "part.",
    chart="curves",
    table="curves",
)
GRADIENT = Figure(
    name="gradient-by-layer",
    heading="Gradient by layer",
    how="Norm of the loss's gradient for each weight layer. Thin lines are seeds, the thick line is their geometric "
    "mean. A flat line means that all layers receive gradients of the same size. With batch norm, the gradients of "
    "deep plain networks tend to explode toward the input rather than vanish.",
    chart="gradient",
    table="gradient",
)
SKIPS = Figure(
    name="skips",
    heading="Skip connections",
    how="The operations of each network from left to right, by resolution. Each arc is a skip connection, drawn "
    "over its branch. Bars below each network: the rise of the loss when one branch is deleted without retraining; "
    "the size of the branch's output relative to the shortcut's; the norm of the loss's gradient at the merge "
    "before training.",
    chart="skips",
    table="skips",
)
CENSUS = (
    Figure(
        name="census",
        heading="Census",
        how="All paths from input to output, by their number of nonlinearities. A network without skip connections "
        "has one path.",
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
        heading="The most linear path",
        how="The path with the fewest nonlinearities in each network, step by step.",
        chart="table",
        table="witness",
        folded=True,
    ),
)
NETWORKS = (GRADIENT, SKIPS, *CENSUS)
