# What .ci/run and .ci/nightly share: named stages that print their seconds, and fresh virtual environments.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
names=()
seconds=()
unset CGRU_ISA CGRU_DEBUG CGRU_SANITIZE CGRU_REPORT CGRU_NO_THREADS CGRU_BACKEND CGRU_TEST_SEED PYTHONPATH OMP_NUM_THREADS
export PIP_DISABLE_PIP_VERSION_CHECK=1

finish() {
    local status=$? i
    printf '\n==== %s: %s after %d s\n' "$(basename "$0")" "$([ $status = 0 ] && echo passed || echo FAILED)" "$SECONDS"
    for i in "${!names[@]}"; do
        printf '%6s s  %s\n' "${seconds[$i]-?}" "${names[$i]}"
    done
    rm -rf "$work"
}
trap finish EXIT

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# stage NAME FUNCTION [ARGUMENTS]: run it in a shell of its own; a failure ends everything.
stage() {
    local start=$SECONDS
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

# outside PYTEST_ARGUMENTS...: run the tests of the sdist against the installed package; warnings are errors. The root is
# said, because modules are named by their path from it, and tests/torch/ must not become a module called torch.
outside() (
    cd "$work/outside"
    python -c 'import cgru, sysconfig; assert cgru.__file__.startswith(sysconfig.get_path("platlib")), cgru.__file__'
    pytest -q -ra -W error --import-mode=importlib --rootdir=. -p no:cacheprovider "$@"
)

# An interpreter of version $1 that works, if there is one: by its name, or one of pyenv's.
find_python() {
    local python
    python=$(command -v "python$1") && "$python" -c '' 2>/dev/null && { echo "$python"; return; }
    python=$(pyenv prefix "$(pyenv latest "$1" 2>/dev/null)" 2>/dev/null)/bin/python && "$python" -c '' 2>/dev/null && echo "$python"
}
