#!/usr/bin/env bash
# The kernel tests on a build with the address and undefined-behaviour sanitizers.
# Usage: run.sh [python [pytest arguments]]
set -euo pipefail
python=${1:-python3}
shift || true
cd "$(dirname "$0")/../.."
source_dir=gatv2_pyg/kernels/cpu
build=$source_dir/_build_sanitize
cmake -S "$source_dir" -B "$build" -DGATV2_SANITIZE=ON -DGATV2_WERROR=ON >/dev/null
cmake --build "$build" --parallel
# Python itself is not instrumented, so the runtime has to be there before it starts, and what Python
# never frees is no leak of the kernels.
compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[^=]*=//p' "$build/CMakeCache.txt")
LD_PRELOAD=$("$compiler" -print-file-name=libasan.so):$("$compiler" -print-file-name=libstdc++.so) \
    ASAN_OPTIONS=detect_leaks=0:handle_segv=0 UBSAN_OPTIONS=print_stacktrace=1 \
    GATV2_PYG_LIBRARY="$PWD/$build/libgatv2_cpu.so" \
    "$python" -m pytest tests/test_cpu_kernels.py tests/test_kernels.py -k "cpu" -p no:cacheprovider -q "$@"
