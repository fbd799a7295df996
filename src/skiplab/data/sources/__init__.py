"""Data sets by name: `digits`, folders, files, data sets of the Hugging Face hub, callables that yield batches."""

from skiplab.data.sources.loader import Batches, WithProgress, batches, split_batches
from skiplab.data.sources.open import FORMS, open_source, training_part
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
