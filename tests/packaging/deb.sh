#!/usr/bin/env bash
# Debian packages: built, examined by lintian, installed into a fresh root that has nothing else of
# ours, and used there. tests/packaging/deb.sh [--devel]      root and a mirror; some minutes
# --devel also builds a program against libtrimtab-dev there (a compiler and its packages: more).
set -u
source=$(cd "$(dirname "$0")/../.." && pwd)
# Mounts are this script's own and end with it, however it ends.
if [ -z "${IN_OWN_MOUNTS:-}" ] && [ "$(id -u)" = 0 ]; then
    IN_OWN_MOUNTS=1 exec unshare --mount --propagation private "$0" "$@"
fi
. "$source/tests/packaging/chroot.sh"
work=$(mktemp -d)
trap 'umount -l "$work/root/proc" "$work/root/dev/shm" 2>/dev/null; rm -rf --one-file-system "$work"' EXIT
fail() {
    echo "FAIL: $*"
    tail -n 30 "$work/log"
    exit 1
}
try() { "$@" >"$work/log" 2>&1; }

cd "$source" || exit 1
try cmake --preset package && try cmake --build --preset package -j "$(nproc)" || fail "building"
cd build/package && rm -f ./*.deb
try cpack -G DEB -D CPACK_PACKAGE_CONTACT="A Packager <packager@trimtab.dev>" || fail "cpack"
if command -v lintian >/dev/null; then
    lintian --allow-root --fail-on error ./*.deb >"$work/log" 2>&1 || fail "lintian"
    echo "lintian: no errors, $(grep -c '^W:' "$work/log") warnings"
fi

chroot_begin "$work/root"
cp ./*.deb "$work/root/tmp/"
try inside sh -c 'apt-get install -y -q --no-install-recommends /tmp/trimtab_*.deb' || fail "apt-get install"
inside trimtab --version --verbose >"$work/log" || fail "trimtab --version"
cat "$work/log"
grep -q '^files  */usr/bin/../share/trimtab' "$work/log" || fail "where are its files?"
grep -q 'for any processor' "$work/log" || fail "not portable"
[ -f "$work/root/usr/share/doc/trimtab/copyright" ] || fail "copyright"
try inside sh -ec 'mkdir /tmp/try && cd /tmp/try
trimtab data listops --train train.jsonl --n-train 40 --eval eval.jsonl --n-eval 8 --max-length 12
mpirun -n 2 trimtab train /usr/share/trimtab/jobs/quickstart.cfg --set task.train=train.jsonl \
    --set task.eval=eval.jsonl --set train.steps=2 --set train.batch_size=4 --set eval.generate=false
mpirun -n 1 trimtab eval /usr/share/trimtab/jobs/quickstart.cfg --set task.eval=eval.jsonl \
    --set task.train=train.jsonl --set eval.generate=false --adapter runs/quickstart' || fail "running it"
echo "trimtab_*.deb: installed, trained on 2 ranks and evaluated in a fresh root"
if [ "${1:-}" = --devel ]; then
    cp "$source/tests/packaging/consumer/"* "$work/root/tmp/try/"
    try inside sh -c 'apt-get install -y -q --no-install-recommends /tmp/libtrimtab-dev_*.deb gcc \
        libc6-dev cmake make pkg-config' || fail "apt-get install libtrimtab-dev"
    try inside sh -ec 'cd /tmp/try && gcc -o by_pc consumer.c $(pkg-config --cflags --libs trimtab)
mpirun -n 2 ./by_pc && cmake -S . -B b && cmake --build b && mpirun -n 2 b/consumer' ||
        fail "a program of one's own"
    echo "libtrimtab-dev_*.deb: linked by pkg-config and by find_package in a fresh root"
fi
try inside apt-get remove -y -q trimtab || fail "removing it"
[ ! -e "$work/root/usr/share/trimtab" ] || fail "left behind: $(find "$work/root/usr/share/trimtab")"
