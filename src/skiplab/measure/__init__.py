"""What each skip connection does, as tables: `(program, skips, batches, …) -> pandas.DataFrame`."""

from skiplab.measure.accelerate import faster
from skiplab.measure.clipping import clipping
from skiplab.measure.contribution import contribution
from skiplab.measure.cost import cost
from skiplab.measure.estimate import estimate
from skiplab.measure.gradient import gradient
from skiplab.measure.layers import layers
from skiplab.measure.lengths import lengths
from skiplab.measure.lesion import lesion
from skiplab.measure.linearity import linearity
from skiplab.measure.one_pass import together
from skiplab.measure.probe import probe
from skiplab.measure.shattering import shattering
from skiplab.measure.similarity import similarity
from skiplab.measure.spectrum import spectrum
from skiplab.stats.band import band

__all__ = [
    "band",
    "clipping",
    "contribution",
    "cost",
    "estimate",
    "faster",
    "gradient",
    "layers",
    "lengths",
    "lesion",
    "linearity",
    "probe",
    "shattering",
    "similarity",
    "spectrum",
    "together",
]
