# The Python that a case runs: environment base is the one with today's PyTorch, transformers and
# PEFT that all cases share ($PYPI_DIR/base, made by environment.sh); environment NAME is the case's
# own, which sees those libraries behind what NAME.requirements.txt lists, and what NAME.alone.txt
# lists without its dependencies. Sets $PYTHON; skips the case, with the reason, where they cannot
# be had.
environment() {
    local name=$1 list
    if [ ! -f "$PYPI_DIR/base/made" ]; then
        cat "$PYPI_DIR/base.reason" 2>/dev/null || echo "skipped: first run ctest -R pypi.environment"
        exit 77
    fi
    PYTHON=$PYPI_DIR/base/bin/python
    [ "$name" != base ] || return 0
    "$PYTHON" -m venv --without-pip venv || exit 1
    "$PYTHON" - >"$(echo venv/lib/python3*/site-packages)/base.pth" <<END
import sysconfig
print(sysconfig.get_path("purelib"))
END
    PYTHON=$PWD/venv/bin/python
    for list in requirements alone; do
        local file="$SOURCE/tests/pypi/$name.$list.txt" options=(--no-compile)
        [ -f "$file" ] || continue
        [ $list = requirements ] || options+=(--no-deps)
        if ! timeout 420 "$PYTHON" -m pip install -q --disable-pip-version-check --retries 1 \
            --timeout 10 "${options[@]}" -r "$file" >pip.log 2>&1; then
            echo "skipped: pip cannot install $(tr '\n' ' ' <"$file")"
            exit 77
        fi
    done
}
