"""The linear layer from the steps of a sequence to the output of a network."""

from typing import Literal, get_args

from torch import Tensor, nn

from skiplab.validation import require_one_of

ReadoutMode = Literal["last", "mean", "steps"]


class Readout(nn.Linear):
    """A linear layer on a sequence (N, T, width).

    It reads the last step ("last") or the mean over steps ("mean") and gives (N, outputs), or it reads each step
    ("steps") and gives (N, outputs, T), as `cross_entropy` takes it.
    """

    def __init__(self, width: int, outputs: int, mode: ReadoutMode = "last") -> None:
        require_one_of("readout", mode, get_args(ReadoutMode))
        super().__init__(width, outputs)
        self.mode = mode

    def forward(self, input: Tensor) -> Tensor:
        if self.mode == "steps":
            return super().forward(input).transpose(1, 2)
        return super().forward(input[:, -1] if self.mode == "last" else input.mean(1))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode}"
