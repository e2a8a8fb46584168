"""The installed package: its metadata, its files, its command, and what it imports."""

import importlib.metadata
import importlib.resources
import re
import sys
import sysconfig
from pathlib import Path

import children
import pytest

import cgru

FILES = importlib.resources.files("cgru")


def python(*arguments):
    done = children.python(*arguments)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def metadata():
    try:
        return importlib.metadata.metadata("cgru")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("cgru is not installed")


def test_version(metadata):
    assert metadata["Version"] == cgru.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", cgru.__version__)


def test_requirements(metadata):
    """NumPy and SciPy alone; everything else is an extra."""
    required = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert sorted(re.match(r"[\w-]+", r).group() for r in required) == ["numpy", "scipy"]
    assert metadata["Requires-Python"] == ">=3.10"
    assert {"plot", "progress", "test"} <= set(metadata.get_all("Provides-Extra"))


def test_the_extra_with_all_that_is_small(metadata):
    """Every extra but PyTorch, which drags a gigabyte in, and what only developers need."""
    extras = set(metadata.get_all("Provides-Extra"))
    [wanted] = [r for r in metadata.get_all("Requires-Dist") if r.endswith('extra == "all"')]
    named = set(re.match(r"cgru\[(.*?)\]", wanted).group(1).split(","))
    assert named == extras - {"all", "docs", "test", "torch"}
    of_these = [r for r in metadata.get_all("Requires-Dist") if any(f'extra == "{name}"' in r for name in named)]
    assert not any(re.match("torch|tensorflow|keras|jax", r) for r in of_these)


def test_licences_are_declared(metadata):
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert {Path(name).name for name in metadata.get_all("License-File")} >= {"LICENSE", "japanese_vowels.LICENSE.txt"}


def test_files_of_the_package():
    for name in ("py.typed", "datasets/japanese_vowels.npz", "datasets/japanese_vowels.LICENSE.txt"):
        assert (FILES / name).is_file(), name
    assert len((FILES / "datasets/japanese_vowels.npz").read_bytes()) < 320_000


def test_kernels_are_compiled():
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for name in ("runtime", "baseline"):
        assert (FILES / f"kernels/{name}{suffix}").is_file(), name


def test_command(metadata):
    commands = importlib.metadata.entry_points(group="console_scripts", name="cgru")
    assert {command.value for command in commands} == {"cgru.cli:main"}
    for command in commands:
        assert callable(command.load())


def test_command_in_the_environment(metadata):
    script = Path(sysconfig.get_path("scripts")) / ("cgru.exe" if sys.platform == "win32" else "cgru")
    if not script.exists():
        pytest.skip("the environment's scripts are elsewhere")
    done = children.run(script, "--version")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, f"cgru {cgru.__version__}", "")


def test_python_m():
    assert python("-m", "cgru", "--version") == (0, f"cgru {cgru.__version__}\n", "")
    code, out, err = python("-m", "cgru", "nonsense")
    assert code == 2 and not out and "usage: cgru" in err


def test_import_needs_numpy_and_scipy_alone():
    """Optional packages are not imported, and importing cgru warns of nothing."""
    code, out, err = python(
        "-W",
        "error",
        "-c",
        "import sys, numpy, scipy.linalg, scipy.special; before = set(sys.modules);"
        "import cgru, cgru.cli.bench, cgru.cli.demo, cgru.cli.info;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))",
    )
    assert (code, err) == (0, "")
    # What Cython and the compiled SciPy modules register by themselves is no dependency.
    names = {name for name in out.split() if not name.startswith(("_cython", "cython_runtime"))}
    assert names == {"cgru"} or names <= {"cgru", "numpy", "scipy"}


def test_reference_imports_numpy_alone():
    """It is the oracle: nothing of the library stands behind it."""
    source = (FILES / "reference.py").read_text(encoding="utf-8")
    imported = set(re.findall(r"^(?:from|import) ([\w.]+)", source, re.MULTILINE))
    assert {name.partition(".")[0] for name in imported} == {"__future__", "collections", "typing", "numpy"}


def test_import_leaves_the_process_alone():
    """NumPy's error settings, Python's threads and the handler of Ctrl-C are what they were."""
    code, out, err = python(
        "-c",
        "import signal, threading, numpy as np, scipy.linalg\n"
        "before = np.geterr(), threading.active_count(), signal.getsignal(signal.SIGINT)\n"
        "import cgru\n"
        "layer = cgru.GRU(8, seed=0); layer(np.ones((4, 5, 3)))\n"
        "assert before == (np.geterr(), threading.active_count(), signal.getsignal(signal.SIGINT))\n"
        "print('same')",
    )
    assert (code, out, err) == (0, "same\n", "")


def test_without_torch():
    code, out, err = python("-c", "import sys; sys.modules['torch'] = None; import cgru; import cgru.torch")
    assert code == 1 and not out
    assert err.splitlines()[-1] == 'ImportError: torch is not installed: pip install "cgru[torch]"'


def test_without_scikit_learn():
    """None, or one that is too old: the extra is named. It is imported by nobody else."""
    advice = 'pip install "cgru[sklearn]"'
    code, out, err = python("-c", "import sys; sys.modules['sklearn'] = None; import cgru; import cgru.sklearn")
    assert code == 1 and not out
    assert err.splitlines()[-1] == f"ImportError: scikit-learn is not installed: {advice}"
    old = "import sys, types; m = sys.modules['sklearn'] = types.ModuleType('sklearn'); m.__version__ = '1.5.2'"
    code, out, err = python("-c", f"{old}; import cgru; import cgru.sklearn")
    assert code == 1 and not out
    assert err.splitlines()[-1] == f"ImportError: cgru.sklearn: expected scikit-learn 1.6 or later, got 1.5.2: {advice}"
