"""The questions by name. Each has a file here with a `STUDY` (`skiplab.study.question.Study`)."""

QUESTIONS = {
    "depth": "Does a deep network train without skip connections, and why does it with them?",
    "identity": "Can a deep network learn the identity, or a linear map?",
    "span": "Skip over one, two or three layers: does it matter?",
    "placement": "Where should norm and ReLU stand around the addition?",
    "shortcuts": "Is the identity the best shortcut?",
    "gradient": "Does the lowest layer receive gradient from the start?",
    "sum": "Why is adding the input back not a mess?",
    "noise": "Do deep blocks learn features, or is what they add useful noise?",
    "ensemble": "Does a residual network behave like many shallow networks?",
    "capacity": "Does a skip connection let a network use only as much of itself as it needs?",
    "unet": "What do the long skips of a U-Net carry?",
    "norm": "Does a Transformer train better with its norms before the branches or after the merges, and with warm-up?",
    "time": "Is the gate of an LSTM the same idea as a skip connection?",
}
