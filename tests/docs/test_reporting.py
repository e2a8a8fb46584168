"""docs/examples/reporting.py: how a script ends."""

import subprocess
import sys

import examples
import pytest


@pytest.mark.parametrize(
    ("error", "expected"),
    [("KeyboardInterrupt()", "\ninterrupted\n"), ("ValueError('x')", "ValueError: x\n")],
)
def test_ctrl_c_is_a_word_and_an_error_a_traceback(error, expected):
    examples.load("reporting")
    script = f"import reporting; reporting.options('title', arguments=[]); raise {error}"
    done = subprocess.run([sys.executable, "-c", script], cwd=examples.FOLDER, capture_output=True, text=True)
    assert done.returncode != 0
    assert ("Traceback" in done.stderr) is (error != "KeyboardInterrupt()")
    assert done.stderr.endswith(expected)
