"""`import cgru` where it cannot work: a sentence says what is missing and what to do about it."""

import os
import shutil
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import children
import numpy
import pytest
import scipy

import cgru
from cgru import kernels

PACKAGE = Path(cgru.__file__).parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
UNBUILT = "ImportError: this is the source tree of cgru, which is not built: "
ADVICE = "Start Python in another folder to use an installed cgru, or build it here: `pip install -e .` in "


@pytest.fixture
def copy(tmp_path):
    """A copy of the package, as it stands in a source tree; its compiled modules are links."""
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "*.npz")
    package = Path(shutil.copytree(PACKAGE, tmp_path / "tree" / "cgru", ignore=ignored))
    (package / "kernels" / "calls.pyx").touch()
    for path in (PACKAGE / "kernels").glob(f"*{SUFFIX}"):
        (package / "kernels" / path.name).symlink_to(path)
    return package


def module(package, name):
    return package / "kernels" / (name + SUFFIX)


def run(package, code="import cgru", *options, **environment):
    """The last line of what a Python that starts beside the package says, or None if all goes well."""
    given = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CGRU_ISA")} | environment
    done = children.python(*options, "-c", code, cwd=package.parent, env=given)
    if done.returncode == 0:
        return None
    assert "circular" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_copy_that_is_built_is_imported(copy):
    code = "import cgru, numpy, sys; assert cgru.__file__ == sys.argv[1]; cgru.GRU(3)(numpy.ones((1, 2, 3)))"
    assert run(copy, code.replace("sys.argv[1]", repr(str(copy / "__init__.py")))) is None


@pytest.mark.parametrize("code", ["import cgru", "import cgru.kernels", "from cgru.layers import GRU"])
def test_the_source_tree_without_compiled_modules(copy, code):
    for path in copy.glob(f"kernels/*{SUFFIX}"):
        path.unlink()
    said = run(copy, code)
    assert said.startswith(UNBUILT) and said.endswith(f". {ADVICE}{copy.parent}")
    assert "lacks the compiled modules calls, runtime, baseline or avx2 or avx512 for " in said


def test_a_second_attempt_says_the_same(copy):
    module(copy, "calls").unlink()
    code = """
said = []
for _ in range(3):
    try:
        import cgru
    except ImportError as error:
        said.append(str(error))
assert len(said) == 3 and len(set(said)) == 1, said
"""
    assert run(copy, code) is None


@pytest.mark.parametrize("name", ["calls", "runtime"])
def test_one_module_is_missing(copy, name):
    module(copy, name).unlink()
    assert run(copy).startswith(f"{UNBUILT}{copy / 'kernels'} lacks the compiled modules {name} for ")


def test_no_build_for_any_instruction_set(copy):
    for path in copy.glob(f"kernels/*{SUFFIX}"):
        if path.name not in (f"calls{SUFFIX}", f"runtime{SUFFIX}"):
            path.unlink()
    lacking = f"{copy / 'kernels'} lacks the compiled modules baseline or avx2 or avx512 for "
    assert run(copy).startswith(UNBUILT + lacking + sys.implementation.cache_tag)


@pytest.mark.skipif(len(kernels.available) < 2, reason="this CPU runs one build alone")
def test_some_builds_suffice(copy):
    module(copy, "baseline").unlink()
    assert run(copy) is None
    assert "CGRU_ISA=baseline: it was not built for this platform" in run(copy, CGRU_ISA="baseline")


def test_no_build_for_this_cpu(copy):
    init = copy / "kernels" / "__init__.py"
    text = init.read_text(encoding="utf-8")
    assert text.count(" if _installed(isa))") == 1
    init.write_text(text.replace(" if _installed(isa))", " if isa == 'of another CPU')"), encoding="utf-8")
    assert run(copy).startswith("ImportError: no build of the kernels is for this CPU, which runs ")


def test_modules_of_another_python(copy):
    other = ".cpython-399-x86_64-linux-gnu.so"
    for path in copy.glob(f"kernels/*{SUFFIX}"):
        path.rename(path.with_name(path.name.replace(SUFFIX, other)))
    said = run(copy)
    assert said.startswith(UNBUILT) and f"{other} is for another Python. {ADVICE}" in said


@pytest.mark.parametrize("name", ["calls", "runtime", kernels.available[0]])
@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01\x01" + bytes(100)], ids=["empty", "cut"])
def test_a_module_that_does_not_load(copy, name, content):
    module(copy, name).unlink()
    module(copy, name).write_bytes(content)
    said = run(copy)
    assert said.startswith(f"{UNBUILT}a compiled module does not load (") and name in said and ADVICE in said


def test_modules_that_are_older_than_the_python_files(copy):
    init = copy / "kernels" / "__init__.py"
    init.write_text(init.read_text(encoding="utf-8") + "\nnew = calls.something_new\n", encoding="utf-8")
    said = run(copy)
    assert said.startswith(f"{UNBUILT}the compiled modules are of another version than the rest (") and ADVICE in said


def test_an_installation_without_modules(copy):
    (copy / "kernels" / "calls.pyx").unlink()
    module(copy, "calls").unlink()
    said = run(copy)
    assert said.startswith("ImportError: this installation of cgru is not complete: ") and "source" not in said
    assert said.endswith("Install cgru again")


@pytest.fixture
def only(tmp_path):
    """A folder with one package of those that are installed, as PYTHONPATH for a Python that looks nowhere else."""
    folder = tmp_path / "packages"
    folder.mkdir()

    def link(*packages):
        for package in packages:
            place = Path(package.__file__).parent
            for path in (place, place.with_name(f"{place.name}.libs")):
                if path.exists():
                    (folder / path.name).symlink_to(path)
        return str(folder)

    return link


def test_both_are_found_where_they_are_linked(copy, only):
    assert run(copy, "import cgru", "-S", PYTHONPATH=only(numpy, scipy)) is None


def test_without_scipy(copy, only):
    said = run(copy, "import cgru", "-S", PYTHONPATH=only(numpy))
    assert said.startswith("ImportError: cgru needs NumPy and SciPy, and SciPy is not installed for ")
    assert said.endswith(": pip install numpy scipy")


def test_without_both(copy, only):
    assert "and NumPy is not installed for " in run(copy, "import cgru", "-S", PYTHONPATH=only())
    module(copy, "runtime").unlink()
    assert run(copy, "import cgru", "-S", PYTHONPATH=only()).startswith(UNBUILT)


def test_what_explains_itself_is_left_alone(copy):
    assert run(copy, CGRU_ISA="mmx").startswith("ImportError: CGRU_ISA: expected one of ")
    (copy / "convert" / "__init__.py").write_text("import a_module_that_is_nowhere\n")
    assert run(copy) == "ModuleNotFoundError: No module named 'a_module_that_is_nowhere'"


def test_suffixes_are_those_of_this_python():
    assert SUFFIX in EXTENSION_SUFFIXES
