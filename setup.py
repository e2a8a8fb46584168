"""Build of the compiled kernels; everything else stands in pyproject.toml.

Environment switches:
  CGRU_DEBUG=1               shapes and strides asserted at every kernel entry, bounds checked, -O1 -g
  CGRU_SANITIZE=address,...  compile and link with -fsanitize=...
  CGRU_NO_THREADS=1          without the thread pool: for platforms that have no threads
  CGRU_FREE_THREADED=1       modules that leave the GIL of a free-threaded Python off
  CGRU_REPORT=1              GCC says which loops it vectorised, by line of the Cython sources; objects have these lines
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("CGRU_DEBUG", "0") not in ("", "0")
REPORT = os.environ.get("CGRU_REPORT", "0") not in ("", "0")
NO_THREADS = os.environ.get("CGRU_NO_THREADS", "0") not in ("", "0")
FREE_THREADED = os.environ.get("CGRU_FREE_THREADED", "0") not in ("", "0")
SANITIZE = os.environ.get("CGRU_SANITIZE", "")
WINDOWS = sys.platform == "win32"
# Vectors, atomics and threads are for GCC and Clang: what MSVC compiles is the baseline build, on one thread.
CLANG_CL = shutil.which("clang-cl", path=os.pathsep.join([os.environ.get("PATH", ""), r"C:\Program Files\LLVM\bin"]))

# One body (kernels.pxi), compiled once per instruction set; what needs none (calls.pyx, runtime.pyx) is compiled once.
# -fno-math-errno and -fno-trapping-math let GCC vectorise; neither changes a result, and nothing here changes the
# process that loads the modules (no -ffast-math). Which multiplications fuse with an addition is written in the code
# (platform.h), not left to the compiler: -ffp-contract=off.
EXACT = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fno-strict-aliasing"]
ISA_FLAGS = {"baseline": []}
MACHINE = sysconfig.get_platform().rpartition("-")[2]  # that the build is for, which need not be the one it runs on
if MACHINE in ("aarch64", "arm64"):
    # Each keeps a row of tile_neon.h in fewer registers, and so copies none.
    ISA_FLAGS["baseline"] += ["-fno-schedule-insns", "-fno-tree-ter"]
if MACHINE in ("x86_64", "amd64") and (CLANG_CL or not WINDOWS):
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    ISA_FLAGS["avx512"] = [
        "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mavx2", "-mfma", "-mf16c", "-mprefer-vector-width=512",
    ]  # fmt: skip


def common_flags():
    """(compile, link) flags that every extension module shares."""
    if WINDOWS:
        return ["/O2", *(EXACT if CLANG_CL else [])], []
    compile_args = ["-pthread", *EXACT]
    compile_args += ["-Wno-unused-function", "-Wno-unused-variable"]  # of the generated code
    # Without tables of how to unwind C, clones for constant arguments, and padding before jumps: a seventh of the size.
    small = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-ipa-cp-clone", "-fno-align-jumps"]
    # -O3 makes a third more code and takes half as long again, and nothing faster: the tiles are unrolled by hand.
    fast = ["-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-g0", *small, "-fno-align-labels"]
    compile_args += ["-O1", "-g"] if DEBUG else fast
    if REPORT:
        compile_args += ["-fopt-info-vec-optimized", "-g1"]
    small_file = ["-Wl,--strip-all", "-Wl,-z,noseparate-code"]
    link_args = ["-pthread"] + ([] if DEBUG or sys.platform != "linux" else small_file)
    if SANITIZE:
        flags = [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g"]
        compile_args += flags
        link_args = ["-pthread"] + flags
    return compile_args, link_args


def spelled(flag):
    """A flag of GCC and Clang as the compiler in use takes it."""
    return f"/clang:{flag}" if WINDOWS and flag.startswith("-") else flag


def extensions():
    compile_args, link_args = common_flags()
    folder = "cgru/kernels"
    depends = [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.endswith((".pxi", ".pxd", ".h"))]
    macros = [] if DEBUG else [("CYTHON_WITHOUT_ASSERTIONS", "1")]
    macros += [("CGRU_NO_THREADS", "1")] if NO_THREADS else []

    def extension(name, flags):
        return Extension(
            f"cgru.kernels.{name}",
            [f"{folder}/{name}.pyx"],
            include_dirs=[folder],
            depends=depends,
            define_macros=macros,
            extra_compile_args=[spelled(flag) for flag in compile_args + flags],
            extra_link_args=link_args,
        )

    # What makes jobs of arrays has no loops to vectorise; with -O1 a step of microseconds takes half as long again,
    # with -Os a sixth.
    short = ["-O2", "-fno-align-functions", "-fno-align-loops", "-fno-inline-small-functions", "-fno-tree-vectorize"]
    short += ["-fno-tree-pre", "-fno-code-hoisting", "-fno-gcse"]
    once = {"calls": short, "runtime": ["-Os"]}
    modules = ISA_FLAGS | ({} if WINDOWS else once)
    return [extension(name, modules.get(name, [])) for name in (*ISA_FLAGS, *once)]


def translate(modules):
    """The modules with C in the place of Cython."""
    return cythonize(
        modules,
        build_dir="build/cython",  # generated C stays out of the tree
        include_path=["cgru/kernels"],
        emit_linenums=DEBUG or REPORT,
        force=True,  # the switches above are not among the dependencies that Cython tracks
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "binding": False,
            "embedsignature": True,
            "freethreading_compatible": FREE_THREADED,
        },
    )


class CleanBuild(build):
    """A build that starts empty: build/lib of an earlier build would end up in the wheel."""

    def run(self):
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildKernels(build_ext):
    """Compile always (flags are not tracked) and several at a time; Cython runs here, not whenever metadata is read."""

    def finalize_options(self):
        super().finalize_options()
        self.force = True
        self.parallel = self.parallel or min(4, os.cpu_count() or 1)

    def run(self):
        for module, translated in zip(self.extensions, translate(self.extensions), strict=True):
            module.sources = translated.sources
        super().run()

    def build_extensions(self):
        """Leave out the flags of size and speed that this compiler does not know: they are those of GCC."""
        if WINDOWS and CLANG_CL:
            self.compiler.initialize()
            self.compiler.cc = CLANG_CL  # which no variable of the environment can say for MSVC
        flags = {flag for module in self.extensions for flag in module.extra_compile_args if flag.startswith("-f")}
        unknown = {flag for flag in flags if not SANITIZE and not self.takes(flag)}
        for module in self.extensions:
            module.extra_compile_args = [flag for flag in module.extra_compile_args if flag not in unknown]
        super().build_extensions()

    def takes(self, flag):
        """Whether the compiler compiles a file of nothing with `flag`."""
        if flag in EXACT or self.compiler.compiler_type == "msvc":
            return True  # what results depend on has to be understood
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "nothing.c")
            with open(path, "w") as file:
                file.write("int nothing;\n")
            command = [*self.compiler.compiler_so, flag, "-Werror", "-c", path, "-o", os.path.join(folder, "nothing.o")]
            return subprocess.run(command, capture_output=True).returncode == 0


setup(ext_modules=extensions(), cmdclass={"build": CleanBuild, "build_ext": BuildKernels})
