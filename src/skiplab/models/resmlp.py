"""ResMLP: linear layers across patches and an MLP across channels. Touvron et al. 2021, arXiv:2105.03404.

Layer norms are replaced by affine maps (their eq. 1), so the path along the shortcuts from image to classes is linear.
"""

import torch
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models.combine import Scaled
from skiplab.models.skip import SkipConnection
from skiplab.validation import require_positive, require_whole


class Affine(nn.Module):
    """α · x + β with one α and β per channel (last dimension), which starts as the identity. Their eq. 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * x + self.beta


class AcrossPatches(nn.Module):
    """A linear layer along the patches, the same for every channel: (N, P, C) gives (N, P, C). Their eq. 2."""

    def __init__(self, patches: int) -> None:
        super().__init__()
        self.linear = nn.Linear(patches, patches)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.transpose(1, 2)).transpose(1, 2)


class ResMLP(nn.Module):
    """Patches, blocks of two skip connections, mean over patches, classifier: (N, C, H, W) gives (N, classes)."""

    def __init__(self, depth: int, width: int, img_size: int, patch: int, sizes: tuple[int, int]) -> None:
        super().__init__()
        in_channels, num_classes = sizes
        self.example_input_shape = (in_channels, img_size, img_size)
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        start = _layer_scale(depth)
        self.blocks = nn.Sequential()
        for _ in range(depth):
            patches = nn.Sequential(Affine(width), AcrossPatches((img_size // patch) ** 2))
            channels = nn.Sequential(Affine(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for branch in (patches, channels):
                self.blocks.append(SkipConnection(branch, combine=Scaled(start, (width,))))
        self.norm = Affine(width)
        self.head = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # as in the authors' code, which follows DeiT
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(dim=1))


def _layer_scale(depth: int) -> float:
    """Initial factor on the branches: Touvron et al. 2021, arXiv:2103.17239, §2."""
    return 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6


def resmlp(
    depth: int = 12,
    width: int = 384,
    img_size: int = 224,
    patch: int = 16,
    in_channels: int = 3,
    num_classes: int = 1000,
) -> ResMLP:
    """ResMLP with `depth` pairs of skip connections; the defaults are ResMLP-S12 (their Table 1).

    The input is (N, in_channels, img_size, img_size), in patches of patch × patch pixels.
    """
    require_positive(depth=depth, width=width, patch=patch, in_channels=in_channels, num_classes=num_classes)
    require_whole(img_size=img_size)
    if img_size < patch or img_size % patch:
        raise UsageError(f"img_size={img_size}: give a multiple of patch={patch}")
    return ResMLP(depth, width, img_size, patch, (in_channels, num_classes))
