"""What each skip connection does, as tables: `(program, skips, batches, …) -> pandas.DataFrame`."""

from .contribution import contribution
from .gradient import gradient
from .lesion import lesion

__all__ = ["contribution", "gradient", "lesion"]
