"""From image files to tensors."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skiplab.data.sources.examples import ImageFile
from skiplab.errors import DataError, format_shape

# Mean and standard deviation of ImageNet's training images by channel, as in torchvision and timm.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class ImageTransform:
    """Decodes images: resize the shorter side, crop the center, scale to [0, 1], normalize.

    Attributes:
        channels, height, width: shape of an image tensor.
        mean, deviation: mean and standard deviation, per channel or for all channels.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)

    def __call__(self, files: Iterable[ImageFile]) -> Tensor:
        """Float32 tensor of shape (N, channels, height, width); raises DataError for a file that cannot be decoded."""
        raw = torch.stack([self._read(file) for file in files])
        mean, deviation = (torch.tensor(each).reshape(-1, 1, 1) for each in (self.mean, self.deviation))
        return (raw - mean) / deviation

    def _read(self, file: ImageFile) -> Tensor:
        pillow, ops = _pillow()
        try:
            with pillow.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
                upright = ops.exif_transpose(image).convert("L" if self.channels == 1 else "RGB")
        except (OSError, ValueError, SyntaxError) as error:
            name = file if not isinstance(file, bytes) else f"an image of {len(file)} bytes"
            raise DataError(f"{name} cannot be read: {error}; remove or replace it") from error
        resized = ops.fit(upright, (self.width, self.height), pillow.Resampling.BILINEAR)
        values = torch.from_numpy(np.array(resized, dtype=np.float32) / 255)
        return values.reshape(self.height, self.width, self.channels).permute(2, 0, 1)


def image_transform(shape: Sequence[int], files: Sequence[ImageFile], normalize: str | None) -> ImageTransform:
    """The transform for a model that takes images of `shape`.

    Args:
        shape: (channels, height, width), with 1 or 3 channels.
        files: images whose mean and standard deviation `normalize="data"` uses.
        normalize: imagenet, data or none; None for imagenet with 3 channels and data otherwise.

    Raises:
        DataError: another shape, or `imagenet` with 1 channel.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(
            f"the model takes {format_shape(shape, 'single numbers')}, and images are 1xHxW or 3xHxW: give data of "
            "that shape, such as a .npz file"
        )
    unnormalized = ImageTransform(shape[0], shape[1], shape[2])
    match normalize or ("imagenet" if shape[0] == 3 else "data"):
        case "none":
            return unnormalized
        case "imagenet" if shape[0] == 3:
            return replace(unnormalized, mean=_IMAGENET[0], deviation=_IMAGENET[1])
        case "imagenet":
            raise DataError("--normalize imagenet needs 3 channels, and the model takes 1: choose data or none")
        case _:
            return _standardized(unnormalized, files)


def _standardized(unnormalized: ImageTransform, files: Sequence[ImageFile]) -> ImageTransform:
    """With mean and standard deviation of each channel over all pixels of `files`, decoded one at a time."""
    sums = torch.zeros(2, unnormalized.channels, dtype=torch.double)
    for file in files:
        values = unnormalized([file])[0].double().flatten(1)
        sums += torch.stack([values.mean(1), values.square().mean(1)])
    mean, square = sums / len(files)
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    deviation[deviation < 1e-6] = 1.0  # a constant channel
    return replace(unnormalized, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))


def _pillow() -> tuple[ModuleType, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise DataError("images need the package pillow: pip install 'skiplab[data]'") from None
    return Image, ImageOps
