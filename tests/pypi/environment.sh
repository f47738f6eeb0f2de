#!/usr/bin/env bash
# Makes the virtual environment that the cases of tests/pypi share: environment.sh DIR makes DIR/base
# from base.requirements.txt, once; later runs find it. ctest runs this before those cases (fixture
# "pypi"). Where it cannot be had, DIR/base.reason says why, and this and the cases are skipped.
set -u
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" && cd "$1" || exit 1
wanted=$here/base.requirements.txt
if cmp -s "$wanted" base/made && base/bin/python -c "" 2>/dev/null; then exit 0; fi
rm -rf base base.reason

skip() {
    echo "skipped: $*" | tee base.reason
    exit 77
}
python3 -m venv base >venv.log 2>&1 || skip "python3 cannot make a virtual environment (python3-venv)"
# Python compiles what is imported: compiling all of PyTorch takes longer than the tests.
timeout 780 base/bin/pip install -q --disable-pip-version-check --no-compile --retries 1 \
    --timeout 10 -r "$wanted" >pip.log 2>&1 ||
    skip "pip cannot install $(tr '\n' ' ' <"$wanted")"
cp "$wanted" base/made
