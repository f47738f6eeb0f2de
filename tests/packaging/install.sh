#!/usr/bin/env bash
# Installs a build, moves the tree, and uses it where it then lies: tests/packaging/install.sh BUILD
# The program, its man pages, share/trimtab, the library by pkg-config and by find_package.
set -u
build=$(cd "$1" && pwd)
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "FAIL: $*"
    [ ! -f "$work/log" ] || tail -n 40 "$work/log"
    exit 1
}
from_cache() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }

# What CMake would install, elsewhere, in two steps as packagers do.
DESTDIR=$work/stage cmake --install "$build" --prefix /first >"$work/log" 2>&1 || fail "install"
prefix="$work/moved/to here"
mkdir -p "$work/moved" && mv "$work/stage/first" "$prefix" || fail "nothing below DESTDIR/first"
[ -z "$(find "$work/stage" -type f)" ] || fail "files outside the prefix: $(find "$work/stage" -type f)"
for file in bin/trimtab include/trimtab/job.h share/man/man1/trimtab-train.1 \
    share/man/man5/trimtab-job.5 share/bash-completion/completions/trimtab \
    share/trimtab/configs/tasks/boolq.cfg share/trimtab/slurm share/trimtab/jobs/quickstart/model; do
    [ -e "$prefix/$file" ] || fail "$file is not installed"
done

# No path of the build, the sources or the first prefix in anything.
for path in "$build" "$source" "$work/stage" /first; do
    named=$(grep -rlaF -- "$path/" "$prefix") && fail "$path is named in: $named"
done
[ "$(find "$prefix" -type f -perm /022 | wc -l)" = 0 ] || fail "files that others may write"

# The quickstart in small, from there: its job, methods, task and model are found by the program.
export PATH=$prefix/bin:$PATH
mkdir "$work/here" && cd "$work/here" || exit 1
run() { "$source/tests/mpirun.sh" "$@" >"$work/log" 2>&1; }
trimtab data listops --train train.jsonl --n-train 40 --eval eval.jsonl --n-eval 8 --max-length 12 \
    --seed 3 >"$work/log" || fail "data"
data=(--set task.train=train.jsonl --set task.eval=eval.jsonl)
run 2 trimtab train "$prefix/share/trimtab/jobs/quickstart.cfg" "${data[@]}" --set train.steps=2 \
    --set train.batch_size=4 --set eval.generate=false || fail "quickstart"
grep -q '"kind": *"eval"' runs/quickstart/metrics.jsonl || fail "quickstart has not evaluated"
cat >mine.cfg <<'END'
@include "configs/methods/lora-r8.cfg"
model: { path = "jobs/quickstart/model"; };
task: { file = "configs/tasks/listops.cfg"; train = "train.jsonl"; eval = "eval.jsonl"; };
END
run 1 trimtab check mine.cfg --ranks 2 || fail "check of a job of one's own"
run 1 env TRIMTAB_SHARE=/nowhere trimtab check mine.cfg --ranks 2 && fail "found configs nowhere"
grep -q 'configs/methods/lora-r8.cfg' "$work/log" || fail "does not say what it has not found"
# What is in a directory of one's own comes first.
mkdir -p configs/methods && echo 'method: { rank = "eight"; };' >configs/methods/lora-r8.cfg
run 1 trimtab check mine.cfg && fail "does not read configs of one's own"
rm -r configs

# Man pages: roff's warnings, and mandoc's where it is.
for page in "$prefix"/share/man/man?/*; do
    if command -v mandoc >/dev/null; then
        mandoc -Tlint -W warning "$page" >"$work/log" || fail "mandoc: $page"
    fi
    if command -v groff >/dev/null; then
        groff -man -Tutf8 -ww -z "$page" >"$work/log" 2>&1 && [ ! -s "$work/log" ] || fail "groff: $page"
    fi
done

# The environment module, where environment-modules is here: it finds its prefix by itself.
modules=/usr/share/modules/init/bash
if [ -f $modules ]; then
    (
        PATH=${PATH#*:}
        set +u
        . $modules
        module use "$prefix/share/modulefiles" && module load trimtab || exit 1
        [ "$(command -v trimtab)" = "$prefix/bin/trimtab" ] || exit 2
        [ -d "$TRIMTAB_SHARE/configs" ] || exit 3
        [ -z "$(command -v man)" ] || [ "$(man -w trimtab-train)" = "$prefix/share/man/man1/trimtab-train.1" ] || exit 4
        pkg-config --exists trimtab || exit 5
        module unload trimtab
        [ "$(command -v trimtab)" != "$prefix/bin/trimtab" ] || exit 6
    ) >"$work/log" 2>&1 || fail "module load ($?)"
fi

# Programs of one's own. A space in the prefix is nothing pkg-config's flags could carry.
mv "$prefix" "$work/moved/prefix" && prefix=$work/moved/prefix || exit 1
cc=$(from_cache CMAKE_C_COMPILER)
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig:$(echo "$prefix"/lib/*/pkgconfig)
flags=$(pkg-config --cflags --libs trimtab 2>"$work/log") || fail "pkg-config"
# shellcheck disable=SC2086
"$cc" -o by_pkg_config "$source/tests/packaging/consumer/consumer.c" $flags >"$work/log" 2>&1 ||
    fail "a program by pkg-config"
LD_LIBRARY_PATH=$(pkg-config --variable=libdir trimtab) run 2 ./by_pkg_config ||
    fail "running a program built by pkg-config"
grep -q '^trimtab .*nowhere' "$work/log" || fail "a program by pkg-config says something else"
cmake -S "$source/tests/packaging/consumer" -B by_cmake -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_COMPILER="$cc" -DMPI_C_COMPILER="$(from_cache MPI_C_COMPILER)" \
    >"$work/log" 2>&1 || fail "find_package"
cmake --build by_cmake >"$work/log" 2>&1 || fail "a program by find_package"
run 2 by_cmake/consumer || fail "running a program built by find_package"
grep -q '^trimtab .*nowhere' "$work/log" || fail "a program by find_package says something else"
[ -d "$(cat by_cmake/share)/configs" ] || fail "trimtab_SHARE_DIR: $(cat by_cmake/share)"
echo "installed, moved, run, linked against"
