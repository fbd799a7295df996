"""The grid in a study's `--help`: axes with their values, variants, seeds and epochs."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

if TYPE_CHECKING:
    from skiplab.study.question import Grid, Study


class StudyCommand(TyperCommand):
    """The command of a study. The study is loaded only for its own --help, since that imports torch."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from skiplab.study.question import load_study

        super().format_help(ctx, formatter)
        with formatter.section("What is varied"):
            formatter.write_dl(list(grid_options(load_study(str(self.name)))))


def grid_options(study: "Study") -> Iterator[tuple[str, str]]:
    """Each option of the grid with its default values, and those of --quick and --full if they differ."""
    for axis in study.grids["default"].axes:
        yield f"--grid {axis}=", _format_values(study, lambda grid, axis=axis: grid.axes[axis])
    yield "--variants", _format_values(study, lambda grid: grid.variants or study.variants)
    yield "--seeds", _format_values(study, lambda grid: (grid.seeds,))
    yield "--epochs", _format_values(study, lambda grid: (grid.recipe.epochs,))


def _format_values(study: "Study", values: "Callable[[Grid], tuple[Any, ...]]") -> str:
    """ "8,20,50 (--quick 8,50; --full 8,20,50,110)", in the syntax of the command line."""
    texts = {name: ",".join(map(_format_value, values(grid))) for name, grid in study.grids.items()}
    others = [f"--{name} {texts[name]}" for name in ("quick", "full") if texts[name] != texts["default"]]
    return texts["default"] + (f" ({'; '.join(others)})" if others else "")


def _format_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
