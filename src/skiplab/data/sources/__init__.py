"""Data by name, as the command line takes them: `digits`, folders and files, data sets of the hub, callables."""

from skiplab.data.sources.learning import training_part
from skiplab.data.sources.loader import Batches, WithProgress, batches, split_batches
from skiplab.data.sources.open import FORMS, open_source
from skiplab.data.sources.request import DataRequest
from skiplab.data.sources.supervised import dataset

__all__ = [
    "FORMS",
    "Batches",
    "DataRequest",
    "WithProgress",
    "batches",
    "dataset",
    "open_source",
    "split_batches",
    "training_part",
]
