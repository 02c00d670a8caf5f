# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# What launch/quickstart, launch/mpirun and tests/run have in common; sourced by bash, never run. Functions:
#   setup_packages   installs what launch/packages lists and this machine lacks
#   setup_build      builds the checkout: build/astromer, with the cuda device where nvcc and an NVIDIA GPU are there
#   setup_python     chooses a Python with numpy and h5py: PYTHON
#   setup_mpi        lets Open MPI run as root, in containers and with more ranks than cores
#   setup_shared     lets ranks and threads sleep while they wait: for cores that others use too
# Each returns 1 after a line on standard error when it could not.

setup_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

setup_say() { printf '%s\n' "$*" >&2; }

# A step whose output only matters when it fails: setup_quietly WHAT COMMAND...
setup_quietly() {
    local what=$1 log
    shift
    log=$(mktemp "${TMPDIR:-/tmp}/astromer-setup-XXXXXX.log") || return 1
    if "$@" >"$log" 2>&1 </dev/null; then
        rm -f "$log"
        return 0
    fi
    setup_say "$what failed; the end of $log:"
    tail -n 30 "$log" >&2
    setup_say "$what failed."
    return 1
}

# --- packages -----------------------------------------------------------------------------------------------------------------

setup_is_debian() { command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; }

# One column of launch/packages.
setup_list() { sed 's/#.*//' "$setup_root/launch/packages" | awk -v column="$1" 'NF { print $column }'; }

setup_missing_packages() {
    local package
    for package in $(setup_list 1); do
        dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || printf '%s ' "$package"
    done
}

# On a system without apt-get nothing is installed; what cannot be found is named, and the build has the last word.
setup_missing_elsewhere() {
    local probe name
    for probe in $(setup_list 2); do
        name=${probe#*:}
        case $probe in
        program:*) command -v "$name" >/dev/null ;;
        pkg-config:*) pkg-config --exists "$name" 2>/dev/null ;;
        header:*) echo "#include <$name>" | "${CC:-cc}" -E -x c - >/dev/null 2>&1 ;;
        python:*) /usr/bin/python3 -c "import $name" 2>/dev/null || python3 -c "import $name" 2>/dev/null ;;
        esac || printf '%s ' "$probe"
    done
}

# DPkg::Lock::Timeout waits for another apt; the Acquire options give up on a dead network within a minute or so.
setup_apt() {
    "${setup_as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
        -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@"
}

setup_install() { setup_apt update && setup_apt install --no-install-recommends "$@"; }

setup_packages() {
    local missing
    if ! setup_is_debian; then
        missing=$(setup_missing_elsewhere)
        [ -z "$missing" ] || setup_say "No apt-get here, so nothing is installed. Not found, unless the build finds it: $missing"
        return 0
    fi
    # The packages' programs go first, so that another Python, MPI or pkg-config on PATH (conda, pyenv) is not mixed in.
    export PATH=/usr/bin:/bin:$PATH
    missing=$(setup_missing_packages)
    [ -n "$missing" ] || return 0
    setup_as_root=()
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
            setup_say "These Debian packages are missing: $missing"
            setup_say "Install them with: sudo apt-get update && sudo apt-get install ${missing% }"
            return 1
        fi
        setup_as_root=(sudo -n)
    fi
    setup_say "Installing: $missing"
    # shellcheck disable=SC2086 # a list of words
    setup_quietly "Installing the packages" setup_install $missing
}

setup_python() {
    for PYTHON in /usr/bin/python3 python3; do
        if "$PYTHON" -c 'import numpy, h5py' 2>/dev/null; then return 0; fi
    done
    setup_say "No python3 with numpy and h5py: install python3-numpy and python3-h5py"
    return 1
}

# --- build --------------------------------------------------------------------------------------------------------------------

# The path of nvcc, or nothing.
setup_nvcc() { command -v nvcc || { [ ! -x /usr/local/cuda/bin/nvcc ] || echo /usr/local/cuda/bin/nvcc; }; }

setup_compiles() { "$1" -E -x cu - >/dev/null 2>&1 <<<'#include <cublasLt.h>'; }

# The compute capabilities, as 86, of this machine's NVIDIA GPUs that have 8.0 or later, as the kernels need; `unknown` where a GPU
# is there and its capability cannot be had.
setup_gpus() {
    local capabilities
    capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sed -n 's/^ *\([0-9]*\)\.\([0-9]\) *$/\1\2/p')
    if [ -n "$capabilities" ]; then
        sort -nu <<<"$capabilities" | awk '$1 >= 80'
    elif nvidia-smi -L 2>/dev/null | grep -q '^GPU' || [ -n "$(ls /proc/driver/nvidia/gpus 2>/dev/null)" ]; then
        echo unknown
    fi
}

# The capabilities as a list for Meson, or nothing if nvcc does not know one of them.
setup_architectures() {
    local nvcc=$1 known capability list=
    shift
    known=$("$nvcc" --list-gpu-code 2>/dev/null)
    for capability; do
        grep -qx "sm_$capability" <<<"$known" || return 0
        list=$list,$capability
    done
    printf '%s' "${list#,}"
}

# Whether the cuda device is built, and for what: Meson's options setup_cuda_options, and setup_cuda in words. ASTROMER_CUDA=enabled
# or =disabled decides. Without it a build folder stays as it is configured, and a new one has the device where it can be built and
# used.
setup_choose_cuda() {
    local wish=${ASTROMER_CUDA-} nvcc gpus list
    setup_cuda_options=(-Dcuda=disabled)
    nvcc=$(setup_nvcc)
    gpus=$(setup_gpus)
    if [ -z "$wish" ] && [ -f "$setup_root/build/build.ninja" ]; then
        setup_cuda_options=()
        setup_cuda="as that folder is configured"
    elif [ "$wish" = disabled ]; then
        setup_cuda="without the cuda device, as ASTROMER_CUDA says"
    elif [ -n "$wish" ] && [ "$wish" != enabled ]; then
        setup_say "ASTROMER_CUDA is 'enabled' or 'disabled', not '$wish'"
        return 1
    elif [ "$wish" = enabled ] && [ -z "$nvcc" ]; then
        setup_say "ASTROMER_CUDA=enabled needs nvcc, on PATH or in /usr/local/cuda/bin"
        return 1
    elif [ -z "$nvcc" ]; then
        setup_cuda="without the cuda device, for there is no nvcc"
    elif [ -z "$wish$gpus" ]; then
        setup_cuda="without the cuda device, for there is no NVIDIA GPU of compute capability 8.0 or later"
    elif [ -z "$wish" ] && ! setup_compiles "$nvcc"; then
        setup_cuda="without the cuda device, for $nvcc does not work or has no cuBLAS"
    else
        # shellcheck disable=SC2086 # a list of words
        list=$(setup_architectures "$nvcc" $gpus)
        setup_cuda_options=(-Dcuda=enabled)
        [ -z "$list" ] || setup_cuda_options+=("-Dgpu_architectures=$list")
        setup_cuda="with the cuda device for ${list:+compute capability }${list:-all GPUs}"
    fi
}

# Whether what was built uses a GPU of this machine unless it is told otherwise.
setup_uses_gpu() {
    [ -n "$(setup_gpus)" ] && (cd "$setup_root" && meson configure build 2>/dev/null) | grep -Eq '^ *cuda +enabled'
}

# A build folder that was copied from elsewhere, interrupted or made by another Meson is configured afresh.
setup_forget_copied() {
    local build=$setup_root/build
    if [ -f "$build/built-from" ] && [ "$(cat "$build/built-from")" != "$setup_root" ]; then
        rm -rf "$build/build.ninja" "$build/meson-private" "$build/built-from"
    fi
}

setup_configure() {
    local build=$setup_root/build
    cd "$setup_root" || return 1
    if [ ! -f "$build/build.ninja" ]; then
        meson setup build "${setup_cuda_options[@]}" ||
            { [ -f "$build/meson-private/coredata.dat" ] && meson setup --wipe build "${setup_cuda_options[@]}"; } || return 1
    elif [ ${#setup_cuda_options[@]} -gt 0 ]; then
        meson configure build "${setup_cuda_options[@]}" || return 1
    fi
    printf '%s\n' "$setup_root" >"$build/built-from"
}

setup_configure_and_compile() { (setup_configure) && ninja -C "$setup_root/build"; }

setup_build() {
    setup_forget_copied
    setup_choose_cuda || return 1
    setup_say "Building in $setup_root/build, $setup_cuda"
    setup_quietly "The build" setup_configure_and_compile
}

# --- MPI ----------------------------------------------------------------------------------------------------------------------

# Open MPI refuses to start as root and to start more ranks than cores unless told otherwise. Containers forbid the direct copy
# between processes that its shared-memory transport tries.
setup_mpi() {
    if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
    export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe # Open MPI 4, and 5
    if [ -f /.dockerenv ] || [ -f /run/.containerenv ]; then export OMPI_MCA_btl_vader_single_copy_mechanism=none; fi
}

# Ranks and OpenMP threads spin while they wait for each other. That is fastest on cores of their own and many times slower on
# cores where somebody else works.
setup_shared() { export OMPI_MCA_mpi_yield_when_idle=1 OMP_WAIT_POLICY=${OMP_WAIT_POLICY-passive}; }
