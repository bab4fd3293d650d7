// The functions the launcher calls, and the choice of instruction set.
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <stddef.h>

#include "pages.h"
#include "structure.h"
#include "table.h"

#define GATV2_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace gatv2;

#define GATV2_TABLES(isa)                                                       \
  {                                                                             \
    &passes_##isa##_float32, &passes_##isa##_float64, &passes_##isa##_bfloat16, \
        &passes_##isa##_float16                                                 \
  }

// Null where this build lacks an instruction set.
const PassTable* const kTables[][4] = {
#if defined(GATV2_HAS_baseline)
    GATV2_TABLES(baseline),
#else
    {},
#endif
#if defined(GATV2_HAS_avx2)
    GATV2_TABLES(avx2),
#else
    {},
#endif
#if defined(GATV2_HAS_avx512)
    GATV2_TABLES(avx512),
#else
    {},
#endif
};

// Instruction sets are numbered 0: baseline, 1: AVX2 with FMA and F16C, 2: AVX-512 F, BW, DQ, VL.
constexpr int64_t kAvx2 = 1, kAvx512 = 2;

// Several heads of 24 floats are whole vectors of AVX2 alone.
const PassTable& table(const Arguments& args, int64_t isa) {
  if (isa == kAvx512 && args.dtype == kFloat32 && args.heads > 1 && args.channels == 24 &&
      kTables[kAvx2][0])
    isa = kAvx2;
  return *kTables[isa][args.dtype];
}

bool runs(int isa) {
  if (!kTables[isa][0]) return false;
  if (isa == 0) return true;
#if defined(__x86_64__)
  // Not every compiler knows the name of F16C.
  unsigned a, b, c, d;
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
  if (isa == kAvx2 || !avx2) return avx2;
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

// The records of abi.h, as the launcher must have them.
struct Field {
  const char* name;
  int64_t offset;
};
struct Record {
  const char* name;
  int64_t size;
  const Field* fields;
  int64_t num_fields;
};
#define GATV2_FIELD(record, field) \
  { #field, offsetof(record, field) }
const Field kGroupedEdges[] = {
    GATV2_FIELD(GroupedEdges, ptr),        GATV2_FIELD(GroupedEdges, idx),
    GATV2_FIELD(GroupedEdges, edge),       GATV2_FIELD(GroupedEdges, pieces),
    GATV2_FIELD(GroupedEdges, num_pieces), GATV2_FIELD(GroupedEdges, cuts),
    GATV2_FIELD(GroupedEdges, num_cuts)};
const Field kArguments[] = {
    GATV2_FIELD(Arguments, dtype),         GATV2_FIELD(Arguments, wide_index),
    GATV2_FIELD(Arguments, threads),       GATV2_FIELD(Arguments, num_src),
    GATV2_FIELD(Arguments, num_dst),       GATV2_FIELD(Arguments, heads),
    GATV2_FIELD(Arguments, channels),      GATV2_FIELD(Arguments, edge_dim),
    GATV2_FIELD(Arguments, num_ids),       GATV2_FIELD(Arguments, src_blocks),
    GATV2_FIELD(Arguments, batch),         GATV2_FIELD(Arguments, element),
    GATV2_FIELD(Arguments, bias_rows),     GATV2_FIELD(Arguments, bias_heads),
    GATV2_FIELD(Arguments, x_src),         GATV2_FIELD(Arguments, x_dst),
    GATV2_FIELD(Arguments, att),           GATV2_FIELD(Arguments, edge_attr),
    GATV2_FIELD(Arguments, edge_weight),   GATV2_FIELD(Arguments, attn_bias),
    GATV2_FIELD(Arguments, ordered_bias),  GATV2_FIELD(Arguments, dst_bias),
    GATV2_FIELD(Arguments, out_bias),      GATV2_FIELD(Arguments, negative_slope),
    GATV2_FIELD(Arguments, dropout),       GATV2_FIELD(Arguments, seed),
    GATV2_FIELD(Arguments, out),           GATV2_FIELD(Arguments, lse),
    GATV2_FIELD(Arguments, alpha),         GATV2_FIELD(Arguments, biased_out),
    GATV2_FIELD(Arguments, by_dst),        GATV2_FIELD(Arguments, by_src),
    GATV2_FIELD(Arguments, grad_out),      GATV2_FIELD(Arguments, grad_alpha),
    GATV2_FIELD(Arguments, d_x_src),       GATV2_FIELD(Arguments, d_x_dst),
    GATV2_FIELD(Arguments, d_att),         GATV2_FIELD(Arguments, d_edge_attr),
    GATV2_FIELD(Arguments, d_edge_weight), GATV2_FIELD(Arguments, d_attn_bias),
    GATV2_FIELD(Arguments, sum_grad_out),  GATV2_FIELD(Arguments, sum_d_x_src),
    GATV2_FIELD(Arguments, sum_d_x_dst)};
const Field kGroupArguments[] = {GATV2_FIELD(GroupArguments, wide_input),
                                 GATV2_FIELD(GroupArguments, wide_output),
                                 GATV2_FIELD(GroupArguments, threads),
                                 GATV2_FIELD(GroupArguments, src),
                                 GATV2_FIELD(GroupArguments, src_stride),
                                 GATV2_FIELD(GroupArguments, dst),
                                 GATV2_FIELD(GroupArguments, dst_stride),
                                 GATV2_FIELD(GroupArguments, num_edges),
                                 GATV2_FIELD(GroupArguments, num_src),
                                 GATV2_FIELD(GroupArguments, num_dst),
                                 GATV2_FIELD(GroupArguments, add_self_loops),
                                 GATV2_FIELD(GroupArguments, ptr),
                                 GATV2_FIELD(GroupArguments, idx),
                                 GATV2_FIELD(GroupArguments, edge)};
const Field kGroupResult[] = {
    GATV2_FIELD(GroupResult, num_edges),    GATV2_FIELD(GroupResult, max_degree),
    GATV2_FIELD(GroupResult, identity),     GATV2_FIELD(GroupResult, bad),
    GATV2_FIELD(GroupResult, bad_position), GATV2_FIELD(GroupResult, bad_value)};
const Field kTransposeArguments[] = {
    GATV2_FIELD(TransposeArguments, wide),          GATV2_FIELD(TransposeArguments, threads),
    GATV2_FIELD(TransposeArguments, ptr),           GATV2_FIELD(TransposeArguments, idx),
    GATV2_FIELD(TransposeArguments, num_positions), GATV2_FIELD(TransposeArguments, num_rows),
    GATV2_FIELD(TransposeArguments, num_src),       GATV2_FIELD(TransposeArguments, num_blocks),
    GATV2_FIELD(TransposeArguments, out_ptr),       GATV2_FIELD(TransposeArguments, out_idx),
    GATV2_FIELD(TransposeArguments, out_edge)};
const Field kPieceArguments[] = {
    GATV2_FIELD(PieceArguments, wide),     GATV2_FIELD(PieceArguments, ptr),
    GATV2_FIELD(PieceArguments, num_rows), GATV2_FIELD(PieceArguments, num_positions),
    GATV2_FIELD(PieceArguments, pieces),   GATV2_FIELD(PieceArguments, num_pieces),
    GATV2_FIELD(PieceArguments, cuts),     GATV2_FIELD(PieceArguments, num_cuts)};
const Field kCheckArguments[] = {
    GATV2_FIELD(CheckArguments, wide),     GATV2_FIELD(CheckArguments, rows),
    GATV2_FIELD(CheckArguments, num_rows), GATV2_FIELD(CheckArguments, num_positions),
    GATV2_FIELD(CheckArguments, num_edge), GATV2_FIELD(CheckArguments, num_other),
    GATV2_FIELD(CheckArguments, num_ids),  GATV2_FIELD(CheckArguments, dst_ptr),
    GATV2_FIELD(CheckArguments, dst_idx),  GATV2_FIELD(CheckArguments, num_blocks)};
const Field kFinding[] = {GATV2_FIELD(Finding, part), GATV2_FIELD(Finding, position),
                          GATV2_FIELD(Finding, value)};
const Field kLoopArguments[] = {
    GATV2_FIELD(LoopArguments, wide),      GATV2_FIELD(LoopArguments, is_double),
    GATV2_FIELD(LoopArguments, threads),   GATV2_FIELD(LoopArguments, ptr),
    GATV2_FIELD(LoopArguments, edge),      GATV2_FIELD(LoopArguments, num_loops),
    GATV2_FIELD(LoopArguments, num_edges), GATV2_FIELD(LoopArguments, dim),
    GATV2_FIELD(LoopArguments, mean),      GATV2_FIELD(LoopArguments, given),
    GATV2_FIELD(LoopArguments, result)};
const Field kHashPart[] = {GATV2_FIELD(HashPart, data), GATV2_FIELD(HashPart, size),
                           GATV2_FIELD(HashPart, stride), GATV2_FIELD(HashPart, bytes),
                           GATV2_FIELD(HashPart, is_signed)};
#undef GATV2_FIELD
// All fields are of 8 bytes, but for grouped edges, which are of 7 times as many.
static_assert(sizeof(GroupedEdges) == 8 * (sizeof(kGroupedEdges) / sizeof(Field)),
              "a field of GroupedEdges is missing");
static_assert(sizeof(Arguments) == 8 * (sizeof(kArguments) / sizeof(Field) + 12),
              "a field of Arguments is missing");
static_assert(sizeof(GroupArguments) == 8 * (sizeof(kGroupArguments) / sizeof(Field)),
              "a field of GroupArguments is missing");
static_assert(sizeof(GroupResult) == 8 * (sizeof(kGroupResult) / sizeof(Field)),
              "a field of GroupResult is missing");
static_assert(sizeof(TransposeArguments) == 8 * (sizeof(kTransposeArguments) / sizeof(Field)),
              "a field of TransposeArguments is missing");
static_assert(sizeof(PieceArguments) == 8 * (sizeof(kPieceArguments) / sizeof(Field)),
              "a field of PieceArguments is missing");
static_assert(sizeof(CheckArguments) == 8 * (sizeof(kCheckArguments) / sizeof(Field) + 6),
              "a field of CheckArguments is missing");
static_assert(sizeof(Finding) == 8 * (sizeof(kFinding) / sizeof(Field)),
              "a field of Finding is missing");
static_assert(sizeof(LoopArguments) == 8 * (sizeof(kLoopArguments) / sizeof(Field)),
              "a field of LoopArguments is missing");
static_assert(sizeof(HashPart) == 8 * (sizeof(kHashPart) / sizeof(Field)),
              "a field of HashPart is missing");
const Record kRecords[] = {
    {"GroupedEdges", sizeof(GroupedEdges), kGroupedEdges, sizeof(kGroupedEdges) / sizeof(Field)},
    {"Arguments", sizeof(Arguments), kArguments, sizeof(kArguments) / sizeof(Field)},
    {"GroupArguments", sizeof(GroupArguments), kGroupArguments,
     sizeof(kGroupArguments) / sizeof(Field)},
    {"GroupResult", sizeof(GroupResult), kGroupResult, sizeof(kGroupResult) / sizeof(Field)},
    {"TransposeArguments", sizeof(TransposeArguments), kTransposeArguments,
     sizeof(kTransposeArguments) / sizeof(Field)},
    {"PieceArguments", sizeof(PieceArguments), kPieceArguments,
     sizeof(kPieceArguments) / sizeof(Field)},
    {"CheckArguments", sizeof(CheckArguments), kCheckArguments,
     sizeof(kCheckArguments) / sizeof(Field)},
    {"Finding", sizeof(Finding), kFinding, sizeof(kFinding) / sizeof(Field)},
    {"LoopArguments", sizeof(LoopArguments), kLoopArguments,
     sizeof(kLoopArguments) / sizeof(Field)},
    {"HashPart", sizeof(HashPart), kHashPart, sizeof(kHashPart) / sizeof(Field)},
};

}  // namespace

// Which sources this was built from: their hash follows the name, also for who reads the file only.
GATV2_EXPORT const char* gatv2_sources() { return "gatv2_cpu sources " GATV2_SOURCES; }

GATV2_EXPORT int64_t gatv2_abi_version() { return kAbiVersion; }

// Field `field` of record `record`, and its offset; of field -1 the record's own name and size. The
// offset is -1 past the last field, and -2 past the last record.
GATV2_EXPORT int64_t gatv2_field(int64_t record, int64_t field, const char** name) {
  if (record >= (int64_t)(sizeof kRecords / sizeof kRecords[0])) return -2;
  const Record& of = kRecords[record];
  if (field >= of.num_fields) return -1;
  *name = field < 0 ? of.name : of.fields[field].name;
  return field < 0 ? of.size : of.fields[field].offset;
}

// A bit for each instruction set that this build has and this processor runs.
GATV2_EXPORT int64_t gatv2_isas() {
  return (int64_t)runs(0) | (int64_t)runs(1) << 1 | (int64_t)runs(2) << 2;
}

GATV2_EXPORT int64_t gatv2_has_openmp() {
#if defined(_OPENMP)
  return 1;
#else
  return 0;
#endif
}

GATV2_EXPORT void gatv2_philox(uint32_t* words, int64_t isa) {
  kTables[isa][kFloat32]->philox(words);
}
GATV2_EXPORT void gatv2_dropout(float* keep, const int64_t* ids, int64_t n, int64_t heads, double p,
                                int64_t seed, int64_t isa) {
  kTables[isa][kFloat32]->dropout(keep, ids, n, heads, p, seed);
}

GATV2_EXPORT int64_t gatv2_prefer_huge_pages(void* memory, int64_t bytes) {
  prefer_huge_pages(memory, (size_t)bytes);
  return kOk;
}

// Each returns a gatv2::Status.
GATV2_EXPORT int64_t gatv2_forward(const Arguments* args, int64_t isa) {
  return table(*args, isa).forward(*args);
}
GATV2_EXPORT int64_t gatv2_backward(const Arguments* args, int64_t isa) {
  return table(*args, isa).backward(*args);
}
GATV2_EXPORT int64_t gatv2_group_by_dst(const GroupArguments* args, GroupResult* result) {
  return group_by_dst(*args, *result);
}
GATV2_EXPORT int64_t gatv2_transpose(const TransposeArguments* args, int64_t* largest,
                                     Finding* finding) {
  return transpose(*args, *largest, *finding);
}
GATV2_EXPORT int64_t gatv2_piece_tables(const PieceArguments* args, Finding* finding) {
  return piece_tables(*args, *finding);
}
GATV2_EXPORT int64_t gatv2_check_rows(const CheckArguments* args, Finding* finding) {
  return check_rows(*args, *finding);
}
GATV2_EXPORT int64_t gatv2_loop_features(const LoopArguments* args) { return loop_features(*args); }
GATV2_EXPORT int64_t gatv2_loop_gradients(const LoopArguments* args) {
  return loop_gradients(*args);
}
GATV2_EXPORT int64_t gatv2_content_hash(const HashPart* parts, int64_t count, int64_t threads,
                                        uint64_t* hash) {
  return content_hash(parts, count, threads, *hash);
}
