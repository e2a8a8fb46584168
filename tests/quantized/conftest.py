"""Small weights are compared to the bit with float32 layers, whose products are the kernels' own."""

import pytest


@pytest.fixture(autouse=True)
def by_kernels(native):
    """Each test of this room; those that ask for BLAS do so themselves."""
