"""What all tests share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves it out, and the oracles live here

import torch

import torchvision_shim  # noqa: F401

torch.set_num_threads(1)  # test cases are small, and more threads only wait for each other
