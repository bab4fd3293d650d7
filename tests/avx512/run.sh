#!/usr/bin/env bash
# The kernels as they are built for AVX-512, on a processor that has no more than AVX2: intrinsics are
# functions here (intrinsics.h), and the library takes what comes of it for its AVX2 kernels.
# Usage: run.sh [python [pytest arguments in place of the tests]]
set -euo pipefail
python=${1:-python3}
shift || true
cd "$(dirname "$0")/../.."
source_dir=gatv2_pyg/kernels/cpu
build=$source_dir/_build_avx512
# What the compiler makes of vectors that the processor lacks is long: -O2 takes half as long again.
cmake -S "$source_dir" -B "$build" -DGATV2_ISAS=avx2 -DGATV2_NATIVE_TESTS="$PWD/tests/native" \
    -DCMAKE_CXX_FLAGS="-include $PWD/tests/avx512/intrinsics.h" -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
    -DPython_EXECUTABLE="$(realpath -s "$(command -v "$python")")" >/dev/null
cmake --build "$build" --parallel "$(nproc)" --target gatv2_cpu simd_test_avx2
"$build/simd_test_avx2"
if [ $# -eq 0 ]; then
    set -- tests/kernels/cpu/test_layout.py \
        tests/kernels/cpu/test_degrees.py tests/kernels/cpu/test_passes.py \
        tests/kernels/cpu/test_limits.py tests/kernels/test_kernels.py \
        -k "not triton and not reference and not openmp and not take_avx2"
fi
GATV2_PYG_LIBRARY="$PWD/$build/libgatv2_cpu.so" "$python" -m pytest -p no:cacheprovider -q "$@"
