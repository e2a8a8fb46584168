"""The thread pool without Python: threads.c, compiled with the headers of the checkout, here and for Windows."""

import os
import shutil
import subprocess
from pathlib import Path

import children
import pytest

SOURCE = Path(__file__).with_name("threads.c")
HEADERS = Path(__file__).parents[2] / "cgru" / "kernels"
pytestmark = pytest.mark.skipif(not (HEADERS / "pool.h").exists(), reason="the headers are in the checkout alone")


def compiled(path, compiler, *flags):
    """Where the program is, without a warning of what it is made of."""
    found = shutil.which(compiler)
    if found is None:
        pytest.skip(f"{compiler} is not installed")
    command = [found, "-O2", "-Wall", "-Werror", "-Wno-unused-function", *flags, f"-I{HEADERS}", SOURCE, "-o", path]
    done = subprocess.run([os.fspath(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.skipif(os.name != "posix", reason="built by a compiler for POSIX")
@pytest.mark.parametrize("flags", [["-pthread"], ["-pthread", "-DCGRU_ASK_CPU"]], ids=["plain", "cpu"])
def test_here(tmp_path, flags):
    """With both ways to ask the CPU, which agree."""
    done = children.run(compiled(tmp_path / "threads", "cc", *flags))
    assert (done.returncode, done.stderr) == (0, "") and "workers 3" in done.stdout, done.stdout


@pytest.mark.skipif("WINEPREFIX" not in os.environ, reason="WINEPREFIX names no Windows to run it on")
def test_for_windows(tmp_path):
    """By mingw-w64 and under Wine."""
    program = compiled(tmp_path / "threads.exe", "x86_64-w64-mingw32-gcc")
    done = children.run("wine", program, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and "workers 3" in done.stdout, done.stdout + done.stderr
