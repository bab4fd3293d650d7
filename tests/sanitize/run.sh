#!/usr/bin/env bash
# Kernel tests on a build with the address and undefined-behaviour sanitizers: one instruction set, and
# the tests that reach every kind of row.
# Usage: run.sh [python [pytest arguments in place of the tests]]
set -euo pipefail
python=${1:-python3}
shift || true
cd "$(dirname "$0")/../.."
source_dir=gatv2_pyg/kernels/cpu
build=$source_dir/_build_sanitize
isa=baseline
if [ "$(uname -m)" = x86_64 ] && grep -qw avx2 /proc/cpuinfo; then isa=avx2; fi
cmake -S "$source_dir" -B "$build" -DGATV2_SANITIZE=ON -DGATV2_WERROR=ON -DGATV2_ISAS=$isa >/dev/null
cmake --build "$build" --parallel "$(nproc)"
if [ $# -eq 0 ]; then
    set -- tests/kernels/cpu/test_structure.py tests/kernels/test_kernels.py \
        tests/kernels/cpu/test_limits.py tests/kernels/cpu/test_passes.py \
        tests/kernels/cpu/test_degrees.py tests/kernels/cpu/test_biased.py \
        tests/kernels/cpu/test_layout.py tests/graph/test_loops.py \
        -k "structure or (test_loops and (kernels_give or bits or strides or both)) or \
(test_kernels and cpu and (options or dtypes or single)) or zero or nan or last_block or in_blocks or rise_or_fall or padded or degrees or test_biased or test_layout"
fi
# Python itself is not instrumented, so the runtime has to be there before it starts, and what Python
# never frees is no leak of the kernels.
compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[^=]*=//p' "$build/CMakeCache.txt")
LD_PRELOAD=$("$compiler" -print-file-name=libasan.so):$("$compiler" -print-file-name=libstdc++.so) \
    ASAN_OPTIONS=detect_leaks=0:handle_segv=0 UBSAN_OPTIONS=print_stacktrace=1 \
    OMP_WAIT_POLICY=passive GATV2_PYG_LIBRARY="$PWD/$build/libgatv2_cpu.so" \
    "$python" -m pytest -p no:cacheprovider -q "$@"
