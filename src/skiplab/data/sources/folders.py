"""Pictures in folders, one folder a class."""

from pathlib import Path

from skiplab.data.sources.examples import Examples, classes
from skiplab.data.sources.request import PARTS, DataRequest
from skiplab.errors import DataError

SUFFIXES = frozenset(".jpg .jpeg .png .bmp .gif .webp .tif .tiff .ppm .pgm".split())


def folder(request: DataRequest) -> Examples:
    """`folder/class/picture.jpg`, or `folder/test/class/picture.jpg` where there are parts.

    Classes are counted by alphabet over their folders, so the folders have to be all that the model knows.
    """
    root = Path(request.spec)
    parts = {each.name for each in _folders(root) if each.name in PARTS and _folders(each)}
    part = request.part(parts) if parts or request.split is not None else ""
    root = root / part
    labelled = [(file, own.name) for own in _folders(root) for file in _pictures(own)]
    if not labelled:
        loose = "its pictures lie in no class's folder: make one for each class" if any(_pictures(root)) else ""
        raise DataError(f"{root} holds no pictures; {loose or 'they are looked for in one folder for each class'}")
    chosen = [labelled[i] for i in request.draw(len(labelled))]
    y, names = classes([label for _, label in chosen], of=[label for _, label in labelled])
    return Examples(request.spec, part, [file for file, _ in chosen], y, len(labelled), frozenset(parts), names)


def _folders(root: Path) -> list[Path]:
    return sorted(each for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))


def _pictures(root: Path) -> list[Path]:
    return sorted(each for each in root.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
