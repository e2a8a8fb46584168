"""Small weights are compared to the bit with float32 layers, whose products are the kernels' own."""

import pytest

import cgru


@pytest.fixture(autouse=True)
def native():
    """Tests that ask for BLAS do so themselves; of float32, that promises no bits."""
    backend = cgru.get_backend()
    cgru.set_backend("native")
    yield
    cgru.set_backend(backend)
