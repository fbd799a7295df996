import importlib
import json
from pathlib import Path

from package_copy import PackageCopy
from skiplab.linter import RULES

ROOT = Path(__file__).parents[2]

TOY = '''"""`toy-rule`: every network has this mistake."""

from collections.abc import Iterator

from skiplab.linter.finding import Finding
from skiplab.linter.rule import LintContext, Rule


def _check(context: LintContext) -> Iterator[Finding]:
    yield Finding(
        rule=RULE.name,
        path="",
        source=None,
        what=f"{len(context.skips)} skips",
        why="It is a toy.",
        fix="play with it",
        reference="none",
    )


RULE = Rule(name="toy-rule", summary="anything at all", check=_check)
'''


def test_a_file_is_named_as_its_rule() -> None:
    for rule in RULES:
        assert importlib.import_module(f"skiplab.linter.{rule.name.replace('-', '_')}").RULE is rule


def test_no_two_rules_share_a_name() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_every_rule_has_a_chapter_in_the_documentation() -> None:
    chapters = [line.removeprefix("## ") for line in (ROOT / "docs/lint.md").read_text().splitlines()]
    assert [each for each in chapters if each in {rule.name for rule in RULES}] == [rule.name for rule in RULES]


def test_a_rule_is_one_file_and_one_line(tmp_path: Path) -> None:
    package = PackageCopy.make(tmp_path)
    package.add_file("linter/toy_rule.py", TOY)
    package.add_line("linter/registry.py", after='"broadcast_merge",', line='"toy_rule",')
    text, data = package.run("lint", "resnet20"), package.run("lint", "resnet20", "--json")
    rules = package.run("lint", "--rules")
    assert (text.returncode, data.returncode, rules.returncode) == (1, 1, 0)
    assert "toy-rule in the root (unknown)\n  9 skips\n  why: It is a toy.\n  fix: play with it\n" in text.stdout
    assert [(each["rule"], each["what"]) for each in json.loads(data.stdout)["findings"]] == [("toy-rule", "9 skips")]
    assert rules.stdout.splitlines()[-1].split(maxsplit=1) == ["toy-rule", "anything at all"]
