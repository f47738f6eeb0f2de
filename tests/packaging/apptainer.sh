#!/usr/bin/env bash
# Runs what docs/install/trimtab.def would have Apptainer do, section by section, in plain Debian roots
# (Apptainer itself is not in Debian 12): stage build's %files and %post, then stage final's, then
# %test and a training run by %runscript. Root and a mirror; some minutes.
set -u
source=$(cd "$(dirname "$0")/../.." && pwd)
if [ -z "${IN_OWN_MOUNTS:-}" ] && [ "$(id -u)" = 0 ]; then
    IN_OWN_MOUNTS=1 exec unshare --mount --propagation private "$0" "$@"
fi
. "$source/tests/packaging/chroot.sh"
work=$(mktemp -d)
trap 'umount -l "$work"/*/proc "$work"/*/dev/shm 2>/dev/null; rm -rf --one-file-system "$work"' EXIT
fail() {
    echo "FAIL: $*"
    tail -n 30 "$work/log"
    exit 1
}
# Lines of a section of the i-th stage: section I NAME
section() {
    awk -v wanted="$1" -v name="$2" '
        /^Bootstrap:/ { stage++; inside = 0 }
        /^%/ { inside = stage == wanted && index($0, name) == 1 && $1 == substr(name, 1, length($1)); next }
        inside' "$source/docs/install/trimtab.def"
}
run_section() { # in $root, as Apptainer does: by /bin/sh
    section "$1" "$2" >"$root/section" && [ -s "$root/section" ] || fail "no section $2 in stage $1"
    inside sh /section >"$work/log" 2>&1 || fail "stage $1: $2"
}
copy_files() { # copy_files I FROM
    section "$1" %files | while read -r from to; do
        [ -n "$from" ] || continue
        mkdir -p "$root/$(dirname "$to")" && cp -r "$2/$from" "$root/$to" || exit 1
    done || fail "stage $1: %files"
}
chroot_begin "$work/build"
copy_files 1 "$source"
run_section 1 %post
built=$root
chroot_begin "$work/final"
copy_files 2 "$built"
run_section 2 %post
run_section 2 %test
grep -q '^BLAS  *BLIS' "$work/log" || fail "%test does not say what it should"
inside sh -ec 'cd /root
trimtab data listops --train train.jsonl --n-train 40 --eval eval.jsonl --n-eval 8 --max-length 12
mpirun -n 2 trimtab train /usr/share/trimtab/jobs/quickstart.cfg --set task.train=train.jsonl \
    --set task.eval=eval.jsonl --set train.steps=2 --set train.batch_size=4 --set eval.generate=false' \
    >"$work/log" 2>&1 || fail "training in the image"
echo "trimtab.def: both stages' sections ran in fresh roots; trained on 2 ranks in the last"
