"""What is wrong with this copy of the package, in a sentence, where `import cgru` fails."""

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

KERNELS = Path(__file__).parent / "kernels"
NEEDED = {"numpy": "NumPy", "scipy": "SciPy"}
ONCE = ("calls", "runtime")  # compiled once
BUILDS = ("baseline", "avx2", "avx512")  # of these, one at least


def explain(error: BaseException) -> str | None:
    """The sentence for an exception of `import cgru`, or None where it speaks for itself."""
    if lacking := _lacking():
        return _advise(lacking)
    if isinstance(error, ModuleNotFoundError) and error.name in NEEDED:
        return (
            f"cgru needs NumPy and SciPy, and {NEEDED[error.name]} is not installed for "
            f"{sys.executable or 'this Python'}: pip install numpy scipy"
        )
    if isinstance(error, ImportError) and (error.path or "").startswith(str(KERNELS)):
        return _advise(f"a compiled module does not load ({error})")
    if _is_of_another_version(error):
        return _advise(f"the compiled modules are of another version than the rest ({error})")
    return None


def _lacking() -> str:
    """What no file of `kernels/` holds for this Python, in words, or an empty string."""
    there = {path.name for path in KERNELS.iterdir()} if KERNELS.is_dir() else set()

    def compiled(name: str) -> bool:
        return any(name + suffix in there for suffix in EXTENSION_SUFFIXES)

    names = [name for name in ONCE if not compiled(name)]
    if not any(map(compiled, BUILDS)):
        names.append(" or ".join(BUILDS))
    if not names:
        return ""
    modules = [name for name in there if name.endswith((".so", ".pyd")) and name.partition(".")[0] in ONCE + BUILDS]
    others = sorted(name for name in modules if name[name.index(".") :] not in EXTENSION_SUFFIXES)
    of_others = f"; {others[0]} is for another Python" if others else ""
    return f"{KERNELS} lacks the compiled modules {', '.join(names)} for {sys.implementation.cache_tag}{of_others}"


def _is_of_another_version(error: BaseException) -> bool:
    """Whether a compiled module lacks what the Python files, or another compiled module, expect of it."""
    owner = getattr(error, "obj", None)
    if isinstance(error, AttributeError):
        return getattr(owner, "__name__", "").startswith("cgru.kernels")
    return isinstance(error, TypeError) and "cgru.kernels" in str(error)


def _advise(what: str) -> str:
    if (KERNELS / "calls.pyx").exists():
        return (
            f"this is the source tree of cgru, which is not built: {what}. Start Python in another folder to use an "
            f"installed cgru, or build it here: `pip install -e .` in {KERNELS.parent.parent}"
        )
    return f"this installation of cgru is not complete: {what}. Install cgru again"
