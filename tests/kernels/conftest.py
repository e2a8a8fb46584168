"""What tests of the kernels' threads share."""

import pytest

from cgru import kernels


@pytest.fixture
def eager():
    """All threads share the smallest call, even if there are fewer processors; afterwards everything is as it was."""
    before, threads = kernels.tune(thread_work=0, team_work=0, gil_work=0, measured=0), kernels.get_num_threads()
    yield
    kernels.tune(**before)
    kernels.set_num_threads(threads)
