"""Settings and fixtures of all tests."""

import os
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# Modules that tests share (checks.py): --import-mode=importlib leaves sys.path alone.
sys.path.insert(0, str(Path(__file__).parent))

# The same examples in every run, unless a seed is asked for; without a deadline, because machines differ.
SEED = int(os.environ.get("CGRU_TEST_SEED", "0"))
hypothesis.settings.register_profile("cgru", deadline=None, derandomize=SEED == 0, database=None)
hypothesis.settings.load_profile("cgru")


@pytest.fixture
def rng():
    """A random generator, new for each test. CGRU_TEST_SEED=N chooses its seed: every test should pass with any."""
    return np.random.default_rng(SEED)
