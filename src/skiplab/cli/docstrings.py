"""Help texts from docstrings in Google style."""

import inspect
import re
from typing import Any

_SECTION = re.compile(r"^(?=(?:Args|Attributes|Returns|Raises):\n)", re.MULTILINE)
_ENTRY = re.compile(r"^    ([\w, ]+): (.*(?:\n {5,}.*)*)", re.MULTILINE)


def description(documented: Any) -> str:
    """A docstring without its sections, one line per paragraph."""
    return re.sub(r"(?<!\n)\n(?!\n|- )\s*", " ", _sections(documented)[0].strip())


def argument_helps(documented: Any) -> dict[str, str]:
    """The text of each entry under "Args" or "Attributes"; "a, b: text" counts for both names.

    The first letter is a capital.
    """
    sections = (text for text in _sections(documented) if text.startswith(("Args:", "Attributes:")))
    entries = [entry for section in sections for entry in _ENTRY.findall(section)]
    texts = {name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")}
    return {name: text[:1].upper() + text[1:] for name, text in texts.items()}


def _sections(documented: Any) -> list[str]:
    return _SECTION.split(inspect.getdoc(documented) or "")
