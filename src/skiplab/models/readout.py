"""From the steps of a sequence to what is asked about it."""

from typing import Literal, get_args

from torch import Tensor, nn

from skiplab.validation import require_one_of

Asked = Literal["last", "mean", "steps"]


class Readout(nn.Linear):
    """(N, T, width) gives logits, or values: (N, outputs) of the last step or of the mean over steps, or of each step.

    Those of each step are (N, outputs, T), with the classes where `cross_entropy` has them.
    """

    def __init__(self, width: int, outputs: int, asked: Asked = "last") -> None:
        require_one_of("readout", asked, get_args(Asked))
        super().__init__(width, outputs)
        self.asked = asked

    def forward(self, input: Tensor) -> Tensor:
        if self.asked == "steps":
            return super().forward(input).transpose(1, 2)
        return super().forward(input[:, -1] if self.asked == "last" else input.mean(1))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, asked={self.asked}"
