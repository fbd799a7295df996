"""From a picture's file to the tensor that a model takes."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skiplab.data.sources.examples import Picture
from skiplab.errors import DataError, format_shape

# Mean and standard deviation of ImageNet's training pictures by channel, as nearly every model trained there has
# them: Krizhevsky's constants as kept by torchvision and timm.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Pixels:
    """How a picture becomes (channels, height, width): shorter side resized, centre cropped, [0, 1], normalised."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)

    def __call__(self, pictures: Iterable[Picture]) -> Tensor:
        """Shape (N, channels, height, width), float32."""
        raw = torch.stack([self._read(picture) for picture in pictures])
        mean, deviation = (torch.tensor(each).reshape(-1, 1, 1) for each in (self.mean, self.deviation))
        return (raw - mean) / deviation

    def _read(self, picture: Picture) -> Tensor:
        pillow, ops = _pillow()
        try:
            with pillow.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
                upright = ops.exif_transpose(opened).convert("L" if self.channels == 1 else "RGB")
        except (OSError, ValueError, SyntaxError) as error:
            name = picture if not isinstance(picture, bytes) else f"a picture of {len(picture)} bytes"
            raise DataError(f"{name} cannot be read: {error}; leave it out or replace it") from error
        resized = ops.fit(upright, (self.width, self.height), pillow.Resampling.BILINEAR)
        values = torch.from_numpy(np.array(resized, dtype=np.float32) / 255)
        return values.reshape(self.height, self.width, self.channels).permute(2, 0, 1)


def pixels(wanted: Sequence[int], pictures: Sequence[Picture], normalize: str | None) -> Pixels:
    """For a model that takes `wanted` (channels, height, width)."""
    if len(wanted) != 3 or wanted[0] not in (1, 3):
        raise DataError(
            "pictures have 1 or 3 channels, a height and a width, and the model takes "
            f"{format_shape(wanted, 'a single number')}: give data of that shape, such as a .npz file"
        )
    plain = Pixels(wanted[0], wanted[1], wanted[2])
    match normalize or ("imagenet" if wanted[0] == 3 else "data"):
        case "none":
            return plain
        case "imagenet" if wanted[0] == 3:
            return replace(plain, mean=_IMAGENET[0], deviation=_IMAGENET[1])
        case "imagenet":
            raise DataError("--normalize imagenet is for 3 channels, and the model takes 1: choose data or none")
        case _:
            return _standardised(plain, pictures)


def _standardised(plain: Pixels, pictures: Sequence[Picture]) -> Pixels:
    """Mean and deviation of each channel over all pixels that are measured on, one picture at a time."""
    sums = torch.zeros(2, plain.channels, dtype=torch.double)
    for picture in pictures:
        values = plain([picture])[0].double().flatten(1)
        sums += torch.stack([values.mean(1), values.square().mean(1)])
    mean, square = sums / len(pictures)
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    deviation[deviation < 1e-6] = 1.0  # a channel that is the same everywhere
    return replace(plain, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))


def _pillow() -> tuple[ModuleType, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise DataError("pictures need the package pillow: pip install 'skiplab[data]'") from None
    return Image, ImageOps
