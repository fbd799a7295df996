"""The part of the data that is learned from, beside the one that networks are judged by."""

from dataclasses import replace

from skiplab.data.sources.examples import Examples
from skiplab.data.sources.open import open_source
from skiplab.data.sources.request import TRAINING_PARTS, DataRequest
from skiplab.data.sources.streams import Stream


def training_part(request: DataRequest, judged: Examples | Stream) -> Examples | Stream | None:
    """The training part, where it is another one than the part that was opened to judge by; None elsewhere."""
    parts = judged.parts if isinstance(judged, Examples) and judged.part not in TRAINING_PARTS else ()
    name = next((name for name in TRAINING_PARTS if name in parts), None)
    return None if name is None else open_source(replace(request, split=name))
