"""The part of the data that is learned from, beside the one that networks are judged by."""

from dataclasses import replace

from skiplab.data.sources.examples import Examples
from skiplab.data.sources.open import opened
from skiplab.data.sources.request import LEARNED, Asked
from skiplab.data.sources.streams import Stream


def to_learn_from(asked: Asked, judged: Examples | Stream) -> Examples | Stream | None:
    """The training part, where it is another one than the part that was opened to judge by; None elsewhere."""
    parts = judged.parts if isinstance(judged, Examples) and judged.part not in LEARNED else ()
    name = next((name for name in LEARNED if name in parts), None)
    return None if name is None else opened(replace(asked, split=name))
