"""The records of a study: its question, its variants and grid, and the sentences and figures computed from its runs."""

import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from skiplab.errors import UsageError
from skiplab.report.figure_spec import TEST_ERROR, TRAIN_ERROR, Axis, Figure
from skiplab.study.claims import Claim
from skiplab.study.grid import Cell
from skiplab.study.questions import QUESTIONS
from skiplab.study.run_cell import Tables, Work
from skiplab.training.recipe import Recipe

Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The runs of a study: one for each variant, each value of each axis, and each seed.

    Attributes:
        axes: the values of each axis by its name: {"depth": (8, 50)}.
        seeds: number of seeds; they are 0, 1, ….
        recipe: how each network is trained; its seed is replaced by the run's.
        device: as in `skiplab.fit`.
        variants: the variants to compare; empty means all of the study.
    """

    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    seeds: int = 3
    recipe: Recipe = field(default_factory=Recipe)
    device: str = "auto"
    variants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.seeds < 1 or not all(self.axes.values()):
            raise UsageError("the grid is empty: give at least one seed, and at least one value for each axis")


def _always_valid(_settings: Settings) -> bool:
    return True


def _unchanged(tables: Tables) -> Tables:
    return tables


def _empty(_tables: Tables) -> Iterable[Any]:
    return ()


def _no_identity(_settings: Settings) -> Settings:
    return {}


def _unit_cost(_settings: Settings) -> float:
    return 1.0


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, and how runs answer it.

    Attributes:
        name: the name of its file in `questions`, and of its command.
        variants: what is compared; the first is the baseline.
        grids: "quick" (two minutes on two cores), "default" and "full".
        work: performs one run and returns its tables, one of them `runs` with a single row. Its `run.settings` hold
            `variant`, a value of each axis, `seed`, `recipe` and `device`. A function at the top level of a module,
            since it runs in other processes.
        sentences: the answers, computed from the tables.
        figures: charts and tables of the page.
        claims: claims of papers with the same quantities here.
        outcomes: columns of `runs` that the summary shows.
        seed_invariant: names of tables that are equal for all seeds; the result has one copy per network.
        postprocess: computes the final tables from those of all runs.
        is_valid: whether a run with these settings exists; others are left out of the grid. Raises `UsageError` for
            settings that no network has.
        estimated_cost: expected work of a run, in any unit.
        identity: entries added to a run's settings, so that another network or data set is another run.
        text: Markdown: the question, then what is compared, why, and how.
    """

    name: str
    variants: tuple[str, ...]
    grids: Mapping[str, Grid]
    work: Work
    sentences: Callable[[Tables], Iterable[str]]
    figures: tuple[Figure, ...]
    claims: Callable[[Tables], Iterable[Claim]] = _empty
    outcomes: tuple[Axis, ...] = (TRAIN_ERROR, TEST_ERROR)
    seed_invariant: tuple[str, ...] = ()
    postprocess: Callable[[Tables], Tables] = _unchanged
    is_valid: Callable[[Settings], bool] = _always_valid
    estimated_cost: Callable[[Settings], float] = _unit_cost
    identity: Callable[[Settings], Settings] = _no_identity
    text: str | None = None

    @classmethod
    def from_module(cls, name: str, **others: Any) -> "Study":
        """The study of a file in `questions`, from the names that every such file defines.

        They are `VARIANTS`, `GRIDS`, `FIGURES`, `work`, `sentences` and, if there are any, `claims`. The text is the
        file's docstring, which starts with the question.

        Args:
            name: the module's `__name__`.
            others: further fields.
        """
        module = sys.modules[name]
        return cls(
            name=name.rpartition(".")[2],
            variants=tuple(module.VARIANTS),
            grids=module.GRIDS,
            work=module.work,
            sentences=module.sentences,
            figures=module.FIGURES,
            claims=getattr(module, "claims", _empty),
            text=module.__doc__,
            **others,
        )

    @property
    def question(self) -> str:
        """The title of the page."""
        return QUESTIONS.get(self.name, "How do these networks differ?")

    @property
    def method(self) -> str:
        """The text after the question."""
        return inspect.cleandoc(self.text or "").partition("\n\n")[2]

    def cells(self, grid: Grid) -> list[Cell]:
        """One cell for each run, in the order of the tables."""
        chosen = grid.variants or self.variants
        if unknown := [name for name in chosen if name not in self.variants]:
            raise UsageError(f"{self.name} has no variant {unknown[0]!r}: choose from {', '.join(self.variants)}")
        # Each is made once, since `identity` may build and capture a network.
        valid = [settings for settings in self._settings(grid, chosen) if self.is_valid(settings)]
        if not valid:
            raise UsageError(f"no run of {self.name} is left: none of these variants exists with these values")
        return [
            Cell(
                f"{network_name(settings, grid.axes)} seed {settings['seed']}", settings, self.estimated_cost(settings)
            )
            for settings in valid
        ]

    def _settings(self, grid: Grid, variants: tuple[str, ...]) -> Iterator[Settings]:
        choices = [dict.fromkeys(each) for each in (variants, *grid.axes.values())]  # without duplicates
        for variant, *values, seed in itertools.product(*choices, range(grid.seeds)):
            settings = {
                "study": self.name,
                "variant": variant,
                **dict(zip(grid.axes, values, strict=True)),
                "seed": seed,
                "recipe": replace(grid.recipe, seed=seed).record(),
                "device": grid.device,
            }
            yield {**settings, **self.identity(settings)}


def network_name(settings: Mapping[Any, Any], axes: Iterable[str] | None = None) -> str:
    """The name of a network in sentences: "plain-50", and with more than one axis "plain (depth 50, samples 100)".

    Args:
        settings: the variant, and a value for each axis.
        axes: the keys of `settings` that are part of the name; None takes all but the variant.
    """
    names = [name for name in settings if name != "variant"] if axes is None else list(axes)
    if len(names) > 1:
        values = ", ".join(f"{name.replace('_', ' ')} {settings[name]}" for name in names)
        return f"{settings['variant']} ({values})"
    return "-".join(str(settings[name]) for name in ("variant", *names))


def load_study(name: str) -> Study:
    """The study with this name, a key of `skiplab.study.QUESTIONS`."""
    return import_module(f"skiplab.study.questions.{name}").STUDY
