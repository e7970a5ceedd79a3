#!/usr/bin/env bash
# Sets up .venv (once), then runs the linters, the type checker and the tests.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
    cat <<'USAGE'
Usage: ./runtests.sh [--quick] [--no-style] [--style] [--clean] [--help] [pytest arguments ...]

  --quick       skip the tests marked slow
  --no-style    run the tests only, no linters and no type checker
  --style       run the linters and the type checker only
  --clean       remove caches and the installation stamp, then stop
  -h, --help    show this text

Everything else is handed to pytest, for example: ./runtests.sh tests/attacks -k precision
Tests run in a process a core; -n 0 runs them in one, as --pdb and -s need it.
PYTHON=/path/to/python chooses the interpreter that .venv is made with (default: python3, 3.10 or newer).
USAGE
}

quick=0 style=1 tests=1
arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        --quick) quick=1 ;;
        --no-style) style=0 ;;
        --style) tests=0 ;;
        --clean)
            rm -rf "$ROOT"/.pytest_cache "$ROOT"/.mypy_cache "$ROOT"/.ruff_cache "$ROOT"/.hypothesis "$ROOT"/build "$ROOT"/.venv/.installed-*
            find "$ROOT" -name __pycache__ -type d -not -path "$ROOT/.venv/*" -prune -exec rm -rf {} +
            exit 0
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) arguments+=("$1") ;;
    esac
    shift
done

. "$ROOT/.ci/setup.sh"
setup_environment all,test,tutorials

# Paths given on the command line are relative to the repository.
cd "$ROOT"
if [ "$style" = 1 ]; then
    echo "ruff check"
    "$PYTHON_BIN" -m ruff check .
    echo "ruff format --check"
    "$PYTHON_BIN" -m ruff format --check .
    echo "mypy"
    "$PYTHON_BIN" -m mypy
fi
if [ "$tests" = 1 ]; then
    if [ "$quick" = 1 ]; then
        arguments+=(-m "not slow")
    fi
    # A process a core, each with one thread: small tensors gain little from two threads, and most of the tests are small.
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    "$PYTHON_BIN" -m pytest -q -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder ${arguments[@]+"${arguments[@]}"}
fi
