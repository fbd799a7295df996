"""Comments by which the code of a saved network tells in which module of the original each line stood."""

import re
from pathlib import Path

MARK = "saved by Skiplab"  # in the first line of such a file, and of no other
_COMMENT = re.compile(r" +# (\S+)")


def heading(path: str) -> str:
    """The comment above what stands in the module of a path; "" is the root."""
    return f"# {path or '.'}"


def paths_in(file: str) -> list[str]:
    """For each line of a file the path that its heading tells; nothing where the file is no saved network."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    if not lines or MARK not in lines[0]:
        return []
    paths, last = [], ""
    for line in lines:
        found = _COMMENT.fullmatch(line)
        if found:
            last = found[1].removeprefix(".")
        paths.append(last)
    return paths
