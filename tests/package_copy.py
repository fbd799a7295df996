"""A copy of the package, for a test that extends it as a contributor would: one new file, one new line in a list."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import skiplab

SOURCE = Path(str(skiplab.__file__)).parent


@dataclass(frozen=True)
class PackageCopy:
    """The package's files in `root/skiplab`."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> "PackageCopy":
        shutil.copytree(SOURCE, root / "skiplab", ignore=shutil.ignore_patterns("__pycache__"))
        return cls(root)

    def add_file(self, name: str, text: str) -> None:
        """A new file: "measure/toy.py"."""
        path = self.root / "skiplab" / name
        assert not path.exists()
        path.write_text(text)

    def add_line(self, name: str, *, after: str, line: str) -> None:
        """`line`, with the same indent, after the one line of a file that is `after`."""
        path = self.root / "skiplab" / name
        lines = path.read_text().splitlines()
        (place,) = (i for i, each in enumerate(lines) if each.strip() == after)
        indent = lines[place][: len(lines[place]) - len(lines[place].lstrip())]
        lines.insert(place + 1, indent + line)
        path.write_text("\n".join(lines) + "\n")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`skiplab …` by this copy."""
        environment = {**os.environ, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "skiplab.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.root)
