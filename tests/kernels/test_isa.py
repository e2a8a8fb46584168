"""Every build of the kernels that this CPU runs, how one is chosen, and that importing cgru changes no process."""

import importlib.util
import os
import platform
from pathlib import Path
from unittest import mock

import checks
import children
import numpy as np
import pytest

import cgru
from cgru import kernels
from cgru.kernels import runtime

BUILDS = ("avx512", "avx2", "baseline")


def python(*arguments, isa=None):
    """Run Python with the cgru under test; CGRU_ISA is `isa`, or not set."""
    environment = children.environment("CGRU_ISA", **({} if isa is None else {"CGRU_ISA": isa}))
    environment["PYTHONPATH"] += os.pathsep + str(Path(checks.__file__).parent)
    return children.python(*arguments, env=environment)


def output_of(*arguments, isa=None):
    process = python(*arguments, isa=isa)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """What each build computed, after it was checked against the reference and finite differences (isa_probe.py)."""
    folder, results = tmp_path_factory.mktemp("isa"), {}
    for isa in kernels.available:
        assert output_of(str(Path(__file__).parent / "isa_probe.py"), str(folder / isa), isa=isa) == isa
        results[isa] = dict(np.load(folder / f"{isa}.npz"))
    return results


class TestBuilds:
    def test_each_agrees_with_the_reference(self, probed):
        assert set(probed) == set(kernels.available) and "baseline" in probed

    @pytest.mark.parametrize("isa", [isa for isa in kernels.available if isa != "baseline"])
    def test_each_agrees_with_the_baseline(self, probed, isa):
        assert probed[isa].keys() == probed["baseline"].keys()
        for name, array in probed["baseline"].items():
            checks.assert_close(probed[isa][name], array, 1e-12 if array.dtype == np.float64 else 2e-5, name)

    def test_the_best_one_is_chosen(self):
        assert output_of("-c", "import cgru.kernels as k; print(k.isa)") == kernels.available[0]
        assert kernels.available == tuple(isa for isa in BUILDS if isa in kernels.available)
        assert set(kernels.available) <= set(runtime.supported_isas())

    def test_an_empty_variable_is_no_choice(self):
        assert output_of("-c", "import cgru.kernels as k; print(k.isa)", isa="") == kernels.available[0]


class TestImportErrors:
    def again(self, monkeypatch, wanted):
        """Execute cgru/kernels/__init__.py once more, aside: what it chooses must not compute in this process."""
        monkeypatch.setenv("CGRU_ISA", wanted)
        monkeypatch.setattr(kernels.calls, "use", lambda build: None)
        spec = importlib.util.spec_from_file_location("kernels_again", kernels.__file__)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def test_unknown(self):
        process = python("-c", "import cgru", isa="AVX2")
        assert process.returncode == 1
        error = "ImportError: CGRU_ISA: expected one of avx512, avx2, baseline, got 'AVX2'"
        assert process.stderr.strip().endswith(error)

    def test_the_cpu_lacks_it(self, monkeypatch):
        if "avx2" not in kernels.available:
            pytest.skip("only one build here")
        monkeypatch.setattr(runtime, "supported_isas", lambda: ("baseline",))
        with pytest.raises(ImportError) as raised:
            self.again(monkeypatch, "avx2")
        assert str(raised.value) == "CGRU_ISA=avx2: this CPU lacks it; available here: baseline"
        assert self.again(monkeypatch, "").isa == "baseline"

    def test_not_built(self, monkeypatch):
        find_spec = importlib.util.find_spec

        def without_avx512(name):
            return None if name.endswith(".avx512") else find_spec(name)

        monkeypatch.setattr(runtime, "supported_isas", lambda: ("avx512", "baseline"))
        with mock.patch.object(importlib.util, "find_spec", without_avx512), pytest.raises(ImportError) as raised:
            self.again(monkeypatch, "avx512")
        expected = "CGRU_ISA=avx512: it was not built for this platform; available here: baseline"
        assert str(raised.value) == expected


DENORMALS = """
import ctypes, platform, sys
import numpy as np, scipy.linalg.cython_blas

def control_word():
    if platform.machine() not in ("x86_64", "aarch64") or platform.libc_ver()[0] != "glibc":
        return 0
    environment = (ctypes.c_uint32 * 64)()
    ctypes.CDLL("libm.so.6").fegetenv(environment)
    if platform.machine() == "aarch64":
        return environment[0]  # FPCR
    return environment[7] & ~0x3F  # MXCSR without the flags that every inexact result raises

def denormals():
    half = np.full(37, 0.5, "float32") * np.finfo("float32").tiny  # a vector and a rest
    return (half > 0).all() and (half + half == np.finfo("float32").tiny).all() and sys.float_info.min / 2 > 0

before = control_word()
assert denormals()
import cgru
assert control_word() == before and denormals()
for dtype in ("float32", "float64"):
    layer = cgru.GRU(37, dtype=dtype, return_sequences=True)
    y, h, tape = layer.forward(np.full((3, 5, 2), 1e-38), training=True)
    layer.backward(np.full_like(y, 1e-38), tape)
    layer.step(np.zeros((1, 2)))
    assert control_word() == before and denormals()
print(hex(before))
"""

IMPORTS = """
import sys
import numpy, scipy.linalg, scipy.special, scipy.linalg.cython_blas

asked = set()

class Recorder:
    def find_spec(self, name, path=None, target=None):
        asked.add(name.partition(".")[0])

sys.meta_path.insert(0, Recorder())
import cgru, cgru.recurrence, cgru.reference, cgru.sequences
layer = cgru.GRU(3, return_sequences=True)
y, h, tape = layer.forward(numpy.ones((2, 5, 4)), training=True)
layer.backward(y, tape)
print(*sorted(asked - set(sys.stdlib_module_names)))
"""


class TestTheProcess:
    @pytest.mark.parametrize("isa", kernels.available)
    def test_denormals_still_exist(self, isa):
        """After import, forward, backward and step; MXCSR or FPCR is what it was."""
        word = int(output_of("-c", DENORMALS, isa=isa), 16)
        if platform.libc_ver()[0] == "glibc":  # all exceptions masked, rounding to nearest, no flush to zero
            assert word == {"x86_64": 0x1F80}.get(platform.machine(), 0)

    def test_only_numpy_and_scipy_are_imported(self):
        """Nothing else is even looked for."""
        assert set(output_of("-c", IMPORTS).split()) <= {"cgru", "numpy", "scipy"}

    def test_the_reference_needs_numpy_only(self):
        code = "import runpy, sys; runpy.run_path(sys.argv[1]); print('scipy' in sys.modules, 'cgru' in sys.modules)"
        assert output_of("-c", code, str(Path(cgru.__file__).parent / "reference.py")) == "False False"
