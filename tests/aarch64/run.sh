#!/usr/bin/env bash
# The library as it is built for aarch64, its SIMD layer and its kernels, under QEMU.
# Usage: run.sh [python [pytest arguments]]
set -euo pipefail
python=${1:-python3}
shift || true
cd "$(dirname "$0")/../.."
for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
    if ! command -v "$tool" >/dev/null; then
        echo "$tool is missing (Debian: apt-get install g++-aarch64-linux-gnu qemu-user)" >&2
        exit 1
    fi
done
source_dir=gatv2_pyg/kernels/cpu
build=$source_dir/_build_aarch64
emulator="qemu-aarch64 -L /usr/aarch64-linux-gnu"
cmake -S "$source_dir" -B "$build" -DCMAKE_TOOLCHAIN_FILE="$PWD/tests/aarch64/toolchain.cmake" \
    -DGATV2_WERROR=ON -DGATV2_NATIVE_TESTS="$PWD/tests/native" >/dev/null
cmake --build "$build" --parallel "$(nproc)" --target gatv2_cpu door_server simd_test_baseline
$emulator "$build/simd_test_baseline"
GATV2_PYG_DOOR_SERVER="$emulator $build/door_server $build/libgatv2_cpu.so" \
    "$python" -m pytest -p no:cacheprovider -q tests/aarch64 "$@"
