"""The package as a Windows Python imports it, for Wine: python .ci/windows.py WINDOWS PACKAGE, from the checkout.

WINDOWS holds python.exe and its packages. The flags are those that setup.py would give clang-cl; here Clang compiles
for mingw-w64, whose headers and libraries Debian has.
"""

import concurrent.futures
import glob
import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pefile
import setuptools

MATH, OURS = b"api-ms-win-crt-math-l1-1-0.dll", b"cgr-ms-win-crt-math-l1-1-0.dll"
OF_COMPLEX = "abs acos acosh arg asin asinh atan atanh cos cosh exp imag log log10 pow proj real sin sinh sqrt tan tanh"
COMPLEX = {f"{name}{kind}" for name in ["conj", *(f"c{name}" for name in OF_COMPLEX.split())] for kind in ["", *"fl"]}


def modules():
    """What setup.py builds on Windows where clang-cl is, as (name, C file, flags of Clang)."""
    for name in ("Cython.Build", "setuptools.command.build_ext"):
        importlib.import_module(name)  # while the platform is what it is
    platform, sysconfig_platform, which = sys.platform, sysconfig.get_platform, shutil.which
    told = {}
    setuptools.setup = told.update
    sys.platform, sysconfig.get_platform, shutil.which = "win32", lambda: "win-amd64", lambda *_, **__: "clang-cl"
    names = {"__name__": "setup"}
    exec(compile(Path("setup.py").read_text(encoding="utf-8"), "setup.py", "exec"), names)
    sys.platform, sysconfig.get_platform, shutil.which = platform, sysconfig_platform, which
    for module in names["translate"](told["ext_modules"]):
        flags = [flag.removeprefix("/clang:").replace("/O2", "-O2") for flag in module.extra_compile_args]
        flags += [f"-D{name}={value}" for name, value in module.define_macros]
        flags += [f"-I{path}" for path in module.include_dirs]
        yield module.name.rpartition(".")[2], module.sources[0], flags


def compiled(windows, package):
    [runtime] = glob.glob("/usr/lib/gcc/x86_64-w64-mingw32/*-win32")
    python = [f"-I{windows}/include", "-DMS_WIN64"]
    [library] = windows.glob("python3[0-9]*.dll")

    def one(name, source, flags):
        out = package / "cgru" / "kernels" / f"{name}.cp{library.stem.removeprefix('python')}-win_amd64.pyd"
        command = ["clang", "--target=x86_64-w64-mingw32", "-shared", "-w", *flags, *python, source, "-o", out, library]
        subprocess.run([*command, f"-L{runtime}", "-static-libgcc", "-Wl,--strip-all"], check=True)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda module: one(*module), list(modules())))


def complete(windows):
    """Wine's C library lacks functions of complex numbers, which NumPy and SciPy want as they are loaded: a library of
    ours has them, and sends whoever asks for another one on to Wine's."""
    files = [path for path in windows.rglob("*") if path.suffix in (".pyd", ".dll") and MATH in path.read_bytes()]
    wanted = set()
    for path in files:
        image = pefile.PE(str(path), fast_load=True)
        image.parse_data_directories([pefile.DIRECTORY_ENTRY["IMAGE_DIRECTORY_ENTRY_IMPORT"]])
        for entry in getattr(image, "DIRECTORY_ENTRY_IMPORT", []):
            wanted |= {item.name.decode() for item in entry.imports} if entry.dll == MATH else set()
        path.write_bytes(path.read_bytes().replace(MATH, OURS))
    exports = [name if name in COMPLEX else f"{name} = ucrtbase.{name}" for name in sorted(wanted)]
    definition, source = windows / "math.def", windows / "math.c"
    definition.write_text("\n".join([f"LIBRARY {OURS.decode()}", "EXPORTS", *exports]) + "\n")
    source.write_text(f"#include <complex.h>\nvoid *wanted[] = {{{', '.join(sorted(wanted & COMPLEX))}}};\n")
    command = ["x86_64-w64-mingw32-gcc-win32", "-shared", "-w", "-fno-builtin", "-static-libgcc", source, definition]
    subprocess.run([*command, "-o", windows / OURS.decode()], check=True)


if __name__ == "__main__":
    complete(Path(sys.argv[1]))
    compiled(Path(sys.argv[1]), Path(sys.argv[2]))
