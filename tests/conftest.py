"""What all tests share."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves it out, and the oracles live here

from beartype import BeartypeConf
from beartype.claw import beartype_package

# The command line and the list of measures name types that they import only once they are used; recipes and models
# check their own options, with errors that say how to mend them.
SKIPPED = ("skiplab.cli", "skiplab.measure.registry", "skiplab.training.recipe", "skiplab.models")
CONF = BeartypeConf(is_pep484_tower=True, claw_skip_package_names=SKIPPED)
beartype_package("skiplab", conf=CONF)  # checks the package's annotations in every call; before anything imports it

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402
from xdist.scheduler import LoadScopeScheduling  # noqa: E402

import torchvision_shim  # noqa: E402, F401

torch.set_num_threads(1)  # test cases are small, and more threads only wait for each other

# `pytest tests/test_planted.py --hypothesis-profile=thorough` for two thousand random networks instead of a hundred
settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("default")


class ByParameter(LoadScopeScheduling):
    """Tests with the same first parameter run in one process: those of one model case, which it then captures once.

    Not by `xdist_group`, whose marks pytest-xdist 3.8 writes where pytest 9.2 does not read them.
    """

    def _split_scope(self, nodeid: str) -> str:
        parameters = nodeid.partition("[")[2].removesuffix("]")
        return parameters.partition("-")[0] or nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByParameter:
    return ByParameter(config, log)
