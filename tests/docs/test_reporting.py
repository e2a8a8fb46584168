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


def test_help_says_a_default_once_and_none_that_is_no_value(capsys):
    reporting = examples.load("reporting")
    users = (["--users"], {"type": int, "help": "how many (default: 1000; quick: 200)"})
    more = [users, (["--rate"], {"default": 0.5, "help": "of it"})]
    with pytest.raises(SystemExit):
        reporting.options("title", data="a file", more=more, arguments=["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("(default:") == 2 and "(default: 0.5)" in text and "(default: 1000; quick: 200)" in text
