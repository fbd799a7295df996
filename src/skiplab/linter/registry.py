"""The list of lint rules, in the order of their findings."""

from importlib import import_module

from skiplab.linter.rule import Rule

# Names of the files of this package that define a `RULE`.
_FILES = (
    "overwritten_shortcut",
    "no_identity_path",
    "drop_path_without_shortcut",
    "shared_drop_path",
    "nonlinear_shortcut",
    "dead_branch",
    "broadcast_merge",
)
RULES: tuple[Rule, ...] = tuple(import_module(f"skiplab.linter.{name}").RULE for name in _FILES)
