"""Where docs/examples is, for the tests of what stands there."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "examples"


def load(name):
    """Return the example called `name` as a module; the test is skipped where the documents are not."""
    path = FOLDER / f"{name}.py"
    if not path.exists():
        pytest.skip("the examples are in the checkout")
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(FOLDER))  # of what the examples share
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module
