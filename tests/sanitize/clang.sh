#!/usr/bin/env bash
# The kernel tests on a build by clang.
# Usage: clang.sh [python [pytest arguments]]
set -euo pipefail
python=${1:-python3}
shift || true
cd "$(dirname "$0")/../.."
source_dir=gatv2_pyg/kernels/cpu
build=$source_dir/_build_clang
cmake -S "$source_dir" -B "$build" -DCMAKE_CXX_COMPILER=clang++ -DGATV2_WERROR=ON \
    -DPython_EXECUTABLE="$(realpath -s "$(command -v "$python")")" >/dev/null
cmake --build "$build" --parallel "$(nproc)"
GATV2_PYG_LIBRARY="$PWD/$build/libgatv2_cpu.so" "$python" -m pytest -p no:cacheprovider -q \
    tests/kernels/cpu/test_passes.py tests/kernels/cpu/test_structure.py \
    tests/kernels/cpu/test_limits.py tests/kernels/test_kernels.py \
    -k "not triton and not reference and not openmp" "$@"
