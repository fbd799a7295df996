"""Data by name, as the command line takes them: `digits`, folders and files, data sets of the hub, callables."""

from skiplab.data.sources.learning import to_learn_from
from skiplab.data.sources.loader import Batches, WithProgress, batches, quartered
from skiplab.data.sources.open import FORMS, opened
from skiplab.data.sources.request import Asked
from skiplab.data.sources.supervised import dataset

__all__ = ["FORMS", "Asked", "Batches", "WithProgress", "batches", "dataset", "opened", "quartered", "to_learn_from"]
