#!/usr/bin/env bash
# trimtab beside PyTorch, in one run: tests/peers/run.sh [--quick] [--help for more]
# Makes a virtual environment of requirements.txt in build/peers, once; PEERS_PYTHON=/path/to/python
# uses one that has them already. TRIMTAB=/path/to/trimtab (default: build/release/trimtab).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
if [ -z "${PEERS_PYTHON:-}" ]; then
    venv=$root/build/peers/venv
    if ! cmp -s "$here/requirements.txt" "$venv/made"; then
        python3 -m venv "$venv"
        "$venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt"
        cp "$here/requirements.txt" "$venv/made"
    fi
    PEERS_PYTHON=$venv/bin/python
fi
exec "$PEERS_PYTHON" "$here/run.py" --trimtab "${TRIMTAB:-$root/build/release/trimtab}" "$@"
