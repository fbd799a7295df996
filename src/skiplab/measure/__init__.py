"""What each skip connection does, as tables: `(program, skips, batches, …) -> pandas.DataFrame`."""

from skiplab.measure.contribution import contribution
from skiplab.measure.gradient import gradient
from skiplab.measure.lesion import lesion

__all__ = ["contribution", "gradient", "lesion"]
