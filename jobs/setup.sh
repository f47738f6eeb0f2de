#!/usr/bin/env bash
# Installs what building and running trimtab needs from Debian's or Ubuntu's packages, if anything
# is missing: as root, or through sudo where that asks no password. Otherwise says what to install.
# Usage: jobs/setup.sh [tests|builds]      "tests" adds what the test suite needs, "builds" also what
# tests/packaging/*.sh do: other compilers, MPIs and BLAS, packages and fresh roots to try them in.
set -euo pipefail

packages=(gcc libc6-dev make cmake pkg-config git openmpi-bin libopenmpi-dev libblis-openmp-dev
    liblapack-dev libscalapack-openmpi-dev libconfig-dev libjansson-dev libpcre2-dev libicu-dev
    libxxhash-dev)
case ${1:-} in
tests | builds)
    packages+=(libcmocka-dev python3 python3-venv iproute2)
    packages+=(slurm-wlm munge shellcheck) # a cluster to submit to
    packages+=(mandoc zsh fish environment-modules) # man pages, completions and modules are tried
    ;;
esac
if [ "${1:-}" = builds ]; then
    packages+=(clang libomp-dev mpich libmpich-dev libscalapack-mpich-dev libblas-dev dpkg-dev file
        lintian debootstrap rpm)
fi

have() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# A newer cmake, compiler or python than Debian's, already on the PATH, will do as well.
provided() {
    case $1 in
    gcc | make | cmake | git | python3) command -v "$1" >/dev/null ;;
    python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    *) false ;;
    esac
}

# clang with its runtime for fuzzing, which is a package of its own.
fuzzes() {
    local built status
    built=$(mktemp)
    clang -x c -fsanitize=fuzzer,address -o "$built" - 2>/dev/null <<'END'
int LLVMFuzzerTestOneInput(const unsigned char *data, unsigned long n) { return n && !data[0]; }
END
    status=$?
    rm -f "$built"
    return $status
}

# Any browser that tests/browser/browser.py knows: its tests are skipped without one, so that it is
# installed only where there is a package that is small enough (Debian's chromium-headless-shell).
browses() {
    local name
    for name in chromium-headless-shell chrome-headless-shell chromium chromium-browser google-chrome; do
        ! command -v "$name" >/dev/null || return 0
    done
    return 1
}
wanted=()
if [ "${1:-}" = tests ] && ! browses; then wanted+=(chromium-headless-shell); fi

missing=()
for package in "${packages[@]}"; do
    have "$package" || provided "$package" || missing+=("$package")
done
if [ -n "${1:-}" ] && ! fuzzes; then
    if version=$(clang -dumpversion 2>/dev/null); then
        missing+=("libclang-rt-${version%%.*}-dev")
    else
        missing+=(clang libclang-rt-dev)
    fi
fi
if [ ${#missing[@]} -eq 0 ] && { [ ${#wanted[@]} -eq 0 ] || ! command -v apt-get >/dev/null; }; then
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    echo "setup: no apt-get here. Install the equivalents of: ${missing[*]}" >&2
    exit 69
fi
if [ "$(id -u)" = 0 ]; then
    as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
elif [ ${#missing[@]} -eq 0 ]; then
    exit 0
else
    echo "setup: missing packages, and no right to install them. Ask for:" >&2
    echo "    apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 69
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1 && return
    cat "$log" >&2
    echo "setup: apt-get failed (above)" >&2
    exit 69
}
if [ ${#missing[@]} -eq 0 ]; then # only what would be nice to have
    (quietly apt-get update -q) 2>/dev/null || exit 0
else
    quietly apt-get update -q
fi
for package in "${wanted[@]}"; do
    ! apt-cache show "$package" >/dev/null 2>&1 || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
echo "setup: installing ${missing[*]}"
quietly apt-get install -y -q --no-install-recommends "${missing[@]}"
