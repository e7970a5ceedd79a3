# Sourced by runtests.sh and rundemo.sh. Creates .venv beside them if it is absent and installs the package into it.
# Usage: setup_environment EXTRAS   (for example "all,test"). Sets PYTHON_BIN. PYTHON names another interpreter than python3.

fail() {
    echo "Error: $*" >&2
    exit 1
}

setup_environment() {
    local extras="$1" python="${PYTHON:-python3}" venv="$ROOT/.venv" stamp key
    command -v "$python" >/dev/null 2>&1 || fail "'$python' was not found: install Python 3.10 or newer, or name it with PYTHON=/path/to/python."
    if [ ! -x "$venv/bin/python" ]; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
            fail "Python 3.10 or newer is needed, but '$python' is $("$python" -V 2>&1): name another with PYTHON=/path/to/python."
        echo "Creating $venv with $("$python" -V 2>&1) ..."
        "$python" -m venv "$venv" || fail "'$python -m venv' failed: install Python's venv module (Debian and Ubuntu: apt install python3-venv)."
    fi
    PYTHON_BIN="$venv/bin/python"
    "$PYTHON_BIN" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        fail "$venv is broken or older than Python 3.10: remove it and run this again."

    # Installed once; again only when a file that says what to install has changed. The extra "test" contains all the others here.
    stamp="$venv/.installed-${extras//,/-}"
    key="$(cat "$ROOT/setup.cfg" "$ROOT/pyproject.toml" "$ROOT/constraints.txt" | cksum) $ROOT"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$key" ] && [ "$(cat "$venv/.installed-all-test" 2>/dev/null)" != "$key" ]; then
        echo "Installing monai-adversarial[$extras] into $venv (minutes the first time) ..."
        "$PYTHON_BIN" -m pip install --quiet --disable-pip-version-check -e "$ROOT[$extras]" -c "$ROOT/constraints.txt" ||
            fail "pip could not install monai-adversarial[$extras] (its own message is above)."
        echo "$key" >"$stamp"
    fi
}
