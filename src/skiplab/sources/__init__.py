"""Data by name, as the command line takes them: `digits`, folders and files, data sets of the hub, callables."""

from skiplab.sources.asked import Asked
from skiplab.sources.batches import Batches, Told, batches, quartered
from skiplab.sources.labelled import dataset
from skiplab.sources.learning import to_learn_from
from skiplab.sources.opened import FORMS, opened

__all__ = ["FORMS", "Asked", "Batches", "Told", "batches", "dataset", "opened", "quartered", "to_learn_from"]
