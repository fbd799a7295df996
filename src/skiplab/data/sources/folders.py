"""Images in folders, one folder per class."""

from pathlib import Path

from skiplab.data.sources.examples import Examples, class_indices
from skiplab.data.sources.request import PARTS, DataRequest
from skiplab.errors import DataError

SUFFIXES = frozenset(".jpg .jpeg .png .bmp .gif .webp .tif .tiff .ppm .pgm".split())


def folder(request: DataRequest) -> Examples:
    """`folder/class/image.jpg`, or `folder/test/class/image.jpg` for data with parts.

    Class indices follow the alphabetical order of the folders, as in `torchvision.datasets.ImageFolder`, so there must
    be a folder for each class of the model.

    Raises:
        DataError: there are no images in class folders, or the requested part does not exist.
    """
    root = Path(request.spec)
    parts = {each.name for each in _folders(root) if each.name in PARTS and _folders(each)}
    part = request.part(parts) if parts or request.split is not None else ""
    root = root / part
    labeled = [(file, own.name) for own in _folders(root) for file in _images(own)]
    if not labeled:
        what = "only images outside class folders" if _images(root) else "no images"
        raise DataError(f"{root} has {what}: make one folder per class with its images")
    drawn = [labeled[i] for i in request.draw(len(labeled))]
    y, names = class_indices([label for _, label in drawn], of=[label for _, label in labeled])
    return Examples(request.spec, part, [file for file, _ in drawn], y, len(labeled), frozenset(parts), names)


def _folders(root: Path) -> list[Path]:
    return sorted(each for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))


def _images(root: Path) -> list[Path]:
    return sorted(each for each in root.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
