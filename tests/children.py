"""Processes that tests start: none depends on how the tests were started, or on how busy the machine is."""

import os
import subprocess
import sys
from pathlib import Path

import cgru

# Seconds after which a child hangs: on a machine that is merely busy, and not emulated, none takes so long.
PATIENCE = float(os.environ.get("CGRU_TEST_PATIENCE", "600"))

# Where the tests run in the background SIGINT is ignored, and children inherit that: this sets Python's own handler.
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def environment(*without, **changes):
    """Variables for a child that imports the cgru under test: those of this process, but for some."""
    given = {name: value for name, value in os.environ.items() if name not in without} | changes
    paths = [str(Path(cgru.__file__).parents[1]), given.get("PYTHONPATH", "")]
    return given | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def run(*command, **options):
    """The process of a command that has ended; output and errors are text."""
    return subprocess.run(command, **{"capture_output": True, "text": True, "timeout": PATIENCE} | options)


def python(*arguments, **options):
    """The same, of this Python."""
    return run(sys.executable, *arguments, **{"env": environment()} | options)


def printed(*arguments, **options):
    """What Python prints, without spaces around it; it must go well and say nothing else."""
    done = python(*arguments, **options)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.strip()


def start(text, *arguments, **options):
    """A process of Python that runs, with pipes for its output and errors; Ctrl-C stops it."""
    command = [sys.executable, "-c", INTERRUPTIBLE + text, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment(), **pipes, **options)
