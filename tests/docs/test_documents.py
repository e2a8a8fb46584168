"""Every Python snippet of the documents and every example in a docstring runs."""

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
import warnings
from pathlib import Path

import pytest

import cgru

# Packages, and extras of ours, that only some modules and snippets need.
OPTIONAL = ("torch", "matplotlib", "onnx", "plot", "sklearn", "pandas")
ROOT = Path(__file__).parents[2]
DOCUMENTS = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if path.exists()]
MODULES = sorted(m.name for m in pkgutil.walk_packages(cgru.__path__, "cgru.") if ".kernels.avx" not in m.name)


@contextlib.contextmanager
def foreign_warnings_are_fine():
    """What optional packages say when they are imported is not ours."""
    with warnings.catch_warnings():
        for name in OPTIONAL:
            warnings.filterwarnings("ignore", module=name)
        yield


@contextlib.contextmanager
def missing_is_fine():
    """Ends the block where an optional package is not installed."""
    try:
        yield
    except (ImportError, doctest.UnexpectedException) as error:
        cause = error.exc_info[1] if isinstance(error, doctest.UnexpectedException) else error
        if not isinstance(cause, ImportError):
            raise
        ours = re.search(r'pip install "cgru\[(\w+)\]"$', str(cause))
        if (ours[1] if ours else cause.name) not in OPTIONAL:
            raise


def snippets(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(not DOCUMENTS, reason="the documents are in the checkout")
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_snippets_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")  # no windows
    namespace, missing = {}, False
    silent = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with foreign_warnings_are_fine(), silent[0], silent[1]:
        for code in snippets(path):  # one after the other, as a reader would
            ran = False
            try:
                with missing_is_fine():
                    exec(compile(code, str(path), "exec"), namespace)
                    ran = True
            except (NameError, FileNotFoundError):  # of what a snippet before would have made
                if not missing:
                    raise
            missing = missing or not ran


@pytest.mark.skipif(not DOCUMENTS, reason="the documents are in the checkout")
def test_readme_has_its_snippets_and_the_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(snippets(ROOT / "README.md")) >= 2
    first_screen = readme.splitlines()[:20]
    assert any(line.startswith("pip install . && cgru demo") for line in first_screen)
    assert any(line.startswith('pip install -e ".[test]" && pytest') for line in first_screen)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    module = None
    with foreign_warnings_are_fine(), missing_is_fine():
        module = importlib.import_module(name)
    if module is None:
        pytest.skip("needs a package that is not installed")
    runner = doctest.DebugRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(module):
        with foreign_warnings_are_fine(), missing_is_fine():
            try:
                runner.run(test)
            except doctest.DocTestFailure as failure:
                pytest.fail(f"{test.name}: {failure.example.source}got {failure.got}")
