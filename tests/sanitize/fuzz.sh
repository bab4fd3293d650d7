#!/usr/bin/env bash
# The coverage-guided fuzz of the C doors (tests/native/fuzz.cpp), with the sanitizers.
# Usage: fuzz.sh [inputs]
set -euo pipefail
inputs=${1:-100000}
cd "$(dirname "$0")/../.."
source_dir=gatv2_pyg/kernels/cpu
build=$source_dir/_build_fuzz
isa=baseline
if [ "$(uname -m)" = x86_64 ] && grep -qw avx2 /proc/cpuinfo; then isa=avx2; fi
cmake -S "$source_dir" -B "$build" -DCMAKE_CXX_COMPILER=clang++ -DGATV2_SANITIZE=ON -DGATV2_WERROR=ON \
    -DGATV2_ISAS=$isa -DGATV2_NATIVE_TESTS="$PWD/tests/native" >/dev/null
cmake --build "$build" --target fuzz --parallel "$(nproc)"
mkdir -p "$build/corpus"
"$build/fuzz" -runs="$inputs" -max_len=1024 -rss_limit_mb=4096 -artifact_prefix="$build/" \
    -print_final_stats=1 "$build/corpus"
