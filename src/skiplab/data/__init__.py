"""Data sets in memory, without downloads: digits, canvases for segmentation, and sequence tasks."""

from skiplab.data.canvases import canvases, distances, edges
from skiplab.data.digits import digits
from skiplab.data.sequences import adding, copying, pixels
from skiplab.data.split import IGNORED, DataSet, Split, batches

__all__ = [
    "IGNORED",
    "DataSet",
    "Split",
    "adding",
    "batches",
    "canvases",
    "copying",
    "digits",
    "distances",
    "edges",
    "pixels",
]
