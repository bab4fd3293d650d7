// A coverage-guided fuzz of the C doors that Python can reach: grouping, transposing, checking and
// hashing of anything, and both passes on whatever the check accepts. All memory is of the exact
// size, for the address sanitizer. See `make fuzz`.
#include <stdio.h>
#include <string.h>

#include <memory>
#include <vector>

#include "structure.h"

extern "C" {
int64_t gatv2_isas();
int64_t gatv2_forward(const gatv2::Arguments*, int64_t isa);
int64_t gatv2_backward(const gatv2::Arguments*, int64_t isa);
int64_t gatv2_group_by_dst(const gatv2::GroupArguments*, gatv2::GroupResult*);
int64_t gatv2_transpose(const gatv2::TransposeArguments*, int64_t*, gatv2::Finding*);
int64_t gatv2_piece_tables(const gatv2::PieceArguments*, gatv2::Finding*);
int64_t gatv2_check_rows(const gatv2::CheckArguments*, gatv2::Finding*);
int64_t gatv2_loop_features(const gatv2::LoopArguments*);
int64_t gatv2_loop_gradients(const gatv2::LoopArguments*);
int64_t gatv2_content_hash(const gatv2::HashPart*, int64_t, int64_t, uint64_t*);
}

namespace {

using namespace gatv2;

void require(bool condition, const char* what) {
  if (condition) return;
  fprintf(stderr, "not so: %s\n", what);
  __builtin_trap();
}

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t byte() { return used_ < size_ ? data_[used_++] : 0; }
  int64_t up_to(int64_t most) { return byte() % (most + 1); }
  bool flag() { return byte() & 1; }
  // Mostly small; now and then anything.
  int64_t number() {
    const int8_t b = (int8_t)byte();
    if (b != -128) return b;
    int64_t value = 0;
    for (int k = 0; k < 8; ++k) value = value << 8 | byte();
    return value;
  }
  size_t left() const { return size_ - used_; }

 private:
  const uint8_t* data_;
  size_t size_, used_ = 0;
};

// Exactly n elements of a size; the pages of no element are never touched.
class Memory {
 public:
  Memory(int64_t n, int64_t bytes) : data_(new uint8_t[n * bytes]()), bytes_(bytes), size_(n) {}
  void* get() const { return data_.get(); }
  int64_t size() const { return size_; }
  int64_t at(int64_t i) const {
    if (bytes_ == 8) return static_cast<const int64_t*>(get())[i];
    return static_cast<const int32_t*>(get())[i];
  }
  void put(int64_t i, int64_t value) {
    if (bytes_ == 8)
      static_cast<int64_t*>(get())[i] = value;
    else
      static_cast<int32_t*>(get())[i] = (int32_t)value;
  }

 private:
  std::unique_ptr<uint8_t[]> data_;
  int64_t bytes_, size_;
};

struct Grouping {
  Memory ptr, idx, edge, pieces, cuts;
  bool identity = false;
  GroupedEdges edges() const {
    return {ptr.get(),      idx.get(),         identity ? nullptr : edge.get(),
            pieces.get(),   pieces.size() / 3, cuts.get(),
            cuts.size() / 3};
  }
};

Grouping empty_grouping(int64_t rows, int64_t positions, int64_t bytes) {
  const int64_t most = positions / (kPiece + 1);
  return {Memory(rows + 1, bytes), Memory(positions, bytes), Memory(positions, bytes),
          Memory(3 * (2 * most + 2), bytes), Memory(3 * (most + 2), bytes)};
}

// Of anything: what is no grouping gets none.
void make_tables(Grouping& g, bool wide) {
  PieceArguments args{};
  args.wide = wide;
  args.ptr = g.ptr.get();
  args.num_rows = g.ptr.size() - 1;
  args.num_positions = g.idx.size();
  args.pieces = g.pieces.get();
  args.num_pieces = g.pieces.size() / 3;
  args.cuts = g.cuts.get();
  args.num_cuts = g.cuts.size() / 3;
  Finding finding;
  require(gatv2_piece_tables(&args, &finding) == kOk, "tables");
}

bool accepted(const Grouping& g, bool wide, int64_t other, int64_t ids, const Grouping* by_dst,
              int64_t blocks) {
  CheckArguments args{};
  args.wide = wide;
  args.rows = g.edges();
  args.num_rows = g.ptr.size() - 1;
  args.num_positions = g.idx.size();
  args.num_edge = g.identity ? 0 : g.edge.size();
  args.num_other = other;
  args.num_ids = ids;
  args.dst_ptr = by_dst ? by_dst->ptr.get() : nullptr;
  args.dst_idx = by_dst ? by_dst->idx.get() : nullptr;
  args.num_blocks = blocks;
  Finding finding;
  require(gatv2_check_rows(&args, &finding) == kOk, "check");
  return finding.part == kNothing;
}

// Both passes over accepted rows.
void attend(Input& in, const Grouping& by_dst, bool wide, int64_t num_src, int64_t num_ids) {
  const int64_t num_dst = by_dst.ptr.size() - 1, blocks = 1 + in.up_to(3);
  const int64_t bytes = wide ? 8 : 4, edges = by_dst.ptr.at(num_dst);
  Grouping by_src = empty_grouping(blocks * num_src, by_dst.idx.size(), bytes);
  int64_t largest;
  Finding finding;
  const TransposeArguments transposing{
      wide,    1 + in.up_to(2), by_dst.ptr.get(), by_dst.idx.get(), by_dst.idx.size(), num_dst,
      num_src, blocks,          by_src.ptr.get(), by_src.idx.get(), by_src.edge.get()};
  require(gatv2_transpose(&transposing, &largest, &finding) == kOk, "transpose");
  require(finding.part == kNothing, "what the check accepted can be transposed");
  make_tables(by_src, wide);
  require(accepted(by_src, wide, num_dst, edges, &by_dst, blocks), "a transpose is sound");
  if (in.flag() && by_src.edge.size()) {
    by_src.edge.put(in.up_to(255) % by_src.edge.size(), in.number());
    if (!accepted(by_src, wide, num_dst, edges, &by_dst, blocks)) return;
  }

  Arguments args{};
  args.dtype = in.up_to(3);
  const int64_t size = args.dtype == 0 ? 4 : args.dtype == 1 ? 8 : 2, acc = args.dtype == 1 ? 8 : 4;
  args.wide_index = wide;
  args.threads = 1;
  args.num_src = num_src;
  args.num_dst = num_dst;
  args.heads = 1 + in.up_to(9);
  args.channels = 1 + in.up_to(35);
  args.edge_dim = in.flag() ? 1 + in.up_to(5) : 0;
  args.num_ids = num_ids;
  args.batch = in.flag() ? in.up_to(3) : 1;
  args.bias_rows = in.flag() ? in.up_to(num_ids) : 0;
  args.bias_heads = in.flag() ? args.heads : 1;
  const int64_t row = args.heads * args.channels;
  const int64_t batch = args.batch, biases = args.bias_rows * args.bias_heads;
  Memory x_src(batch * num_src * row, size), x_dst(batch * num_dst * row, size), att(row, acc);
  Memory attr(num_ids * args.edge_dim, size), weight(row * args.edge_dim, acc);
  Memory out(batch * num_dst * row, acc), lse(batch * num_dst * args.heads, acc);
  Memory alpha(batch * num_ids * args.heads, acc), bias(biases, acc);
  for (int64_t k = 0; k < biases; ++k)  // -inf or a small number
    static_cast<uint8_t*>(bias.get())[k * acc + acc - 1] = in.flag() ? 0xFF : 0x30;
  for (int64_t k = 0; k < biases; ++k)
    if (static_cast<uint8_t*>(bias.get())[k * acc + acc - 1] == 0xFF)
      static_cast<uint8_t*>(bias.get())[k * acc + acc - 2] = acc == 4 ? 0x80 : 0xF0;
  for (Memory* m : {&x_src, &x_dst})
    for (int64_t k = 0; k < m->size(); ++k)
      static_cast<uint8_t*>(m->get())[k * size + size - 1] = 0x30 + in.up_to(16);
  args.x_src = x_src.get();
  args.x_dst = x_dst.get();
  args.att = att.get();
  args.edge_attr = args.edge_dim ? attr.get() : nullptr;
  args.edge_weight = args.edge_dim ? weight.get() : nullptr;
  args.attn_bias = biases ? bias.get() : nullptr;
  args.negative_slope = in.number() / 64.0;
  args.dropout = in.flag() ? in.up_to(100) / 100.0 : 0;
  args.seed = in.byte();
  args.out = out.get();
  args.lse = lse.get();
  const bool returned = in.flag();
  args.alpha = returned ? alpha.get() : nullptr;
  Memory dst_bias(row, acc), out_bias(row, acc), biased(batch * num_dst * row, acc);
  args.dst_bias = in.flag() ? dst_bias.get() : nullptr;
  if (in.flag()) {
    args.out_bias = out_bias.get();
    args.biased_out = biased.get();
    if (in.flag()) args.out = nullptr;
  }
  args.by_dst = by_dst.edges();
  const int64_t isas = gatv2_isas(), isa = isas & 2 ? 1 : 0;
  require(gatv2_forward(&args, isa) == kOk, "forward");

  args.out = out.get();
  Memory grad_out(batch * num_dst * row, size), grad_alpha(batch * num_ids * args.heads, acc);
  Memory d_src(batch * num_src * row, size), d_dst(batch * num_dst * row, size), d_att(row, acc);
  Memory d_bias(biases, acc);
  Memory d_attr(num_ids * args.edge_dim, size), d_weight(row * args.edge_dim, acc);
  args.by_src = by_src.edges();
  args.src_blocks = blocks;
  args.grad_out = in.flag() ? grad_out.get() : nullptr;
  args.grad_alpha = returned ? grad_alpha.get() : nullptr;
  args.d_x_src = in.flag() ? d_src.get() : nullptr;
  args.d_x_dst = in.flag() ? d_dst.get() : nullptr;
  args.d_att = in.flag() ? d_att.get() : nullptr;
  args.d_edge_attr = args.edge_dim && in.flag() ? d_attr.get() : nullptr;
  args.d_edge_weight = args.edge_dim && in.flag() ? d_weight.get() : nullptr;
  args.d_attn_bias = biases && in.flag() ? d_bias.get() : nullptr;
  Memory sum_grad(row, acc), sum_src(row, acc), sum_dst(row, acc);
  args.sum_grad_out = in.flag() ? sum_grad.get() : nullptr;
  args.sum_d_x_src = in.flag() ? sum_src.get() : nullptr;
  args.sum_d_x_dst = in.flag() ? sum_dst.get() : nullptr;
  require(gatv2_backward(&args, isa) == kOk, "backward");
}

// The features of the self-loops of a grouping, and their gradient.
void fill_loops(Input& in, const Grouping& g, bool wide, int64_t edges, int64_t num_ids) {
  const bool is_double = in.flag(), mean = in.flag();
  const int64_t dim = in.up_to(9), size = is_double ? 8 : 4;
  Memory features(edges * dim, size), filled(num_ids * dim, size);
  LoopArguments args{wide,  is_double, 1 + in.up_to(2), g.ptr.get(),    g.edges().edge, num_ids - edges,
                     edges, dim,       mean,            features.get(), filled.get()};
  require(gatv2_loop_features(&args) == kOk, "loop features");
  args.given = filled.get();
  args.result = features.get();
  require(gatv2_loop_gradients(&args) == kOk, "loop gradients");
}

void group(Input& in) {
  const bool wide_in = in.flag(), wide = in.flag(), loops = in.flag();
  const int64_t num_src = in.up_to(12), num_dst = in.up_to(12), stride = 1 + in.up_to(2);
  // Now and then enough edges for long rows.
  const int64_t listed = in.up_to(60), repeats = in.up_to(9) == 9 ? 40 : 1;
  const int64_t edges = listed * repeats, bytes = wide_in ? 8 : 4;
  Memory src(edges ? (edges - 1) * stride + 1 : 0, bytes), dst(src.size(), bytes);
  for (int64_t k = 0; k < edges; ++k) {
    const bool sound = in.left() > 0 && num_src && num_dst;
    const int64_t s = in.number(), d = in.number();
    src.put(k * stride, sound && repeats > 1 ? (uint64_t)s % num_src : s);
    dst.put(k * stride, sound && repeats > 1 ? (uint64_t)d % num_dst : d);
  }
  const int64_t num_ids = edges + (loops ? (num_src < num_dst ? num_src : num_dst) : 0);
  Grouping g = empty_grouping(num_dst, num_ids, wide ? 8 : 4);
  const GroupArguments args{wide_in,   wide,        1 + in.up_to(2), src.get(),   stride,
                            dst.get(), stride,      edges,           num_src,     num_dst,
                            loops,     g.ptr.get(), g.idx.get(),     g.edge.get()};
  GroupResult result;
  require(gatv2_group_by_dst(&args, &result) == kOk, "group");
  if (result.bad) {
    const Memory& end = result.bad == 1 ? src : dst;
    const int64_t value = end.at(result.bad_position * stride);
    require(value == result.bad_value, "the value named is there");
    require((uint64_t)value >= (uint64_t)(result.bad == 1 ? num_src : num_dst), "it is bad");
    return;
  }
  g.identity = result.identity && in.flag();
  make_tables(g, wide);
  require(accepted(g, wide, num_src, num_ids, nullptr, 1), "what was grouped is sound");
  if (loops) fill_loops(in, g, wide, edges, num_ids);
  // One number changed: what is still accepted must be safe to follow.
  Memory* const parts[] = {&g.ptr, &g.idx, &g.edge, &g.pieces, &g.cuts};
  Memory* const part = parts[in.up_to(4)];
  if (in.flag() && part->size())
    part->put((in.byte() << 8 | in.byte()) % part->size(), in.number());
  if (accepted(g, wide, num_src, num_ids, nullptr, 1)) attend(in, g, wide, num_src, num_ids);
}

// Rows of anything.
void check(Input& in) {
  const bool wide = in.flag();
  const int64_t rows = in.up_to(6), positions = in.up_to(20), num_src = in.up_to(6);
  Grouping g = empty_grouping(rows, positions, wide ? 8 : 4);
  g.identity = in.flag();
  for (Memory* part : {&g.ptr, &g.idx, &g.edge})
    for (int64_t k = 0; k < part->size(); ++k) part->put(k, in.number());
  make_tables(g, wide);
  if (in.flag())
    for (Memory* part : {&g.pieces, &g.cuts})
      for (int64_t k = 0; k < part->size(); ++k) part->put(k, in.number());
  const int64_t num_ids = in.up_to(40);
  if (accepted(g, wide, num_src, num_ids, nullptr, 1)) attend(in, g, wide, num_src, num_ids);
  int64_t largest;
  Finding finding;
  Grouping to = empty_grouping(num_src * 2, positions, wide ? 8 : 4);
  const TransposeArguments args{wide,    1, g.ptr.get(),  g.idx.get(),  positions,    rows,
                                num_src, 2, to.ptr.get(), to.idx.get(), to.edge.get()};
  require(gatv2_transpose(&args, &largest, &finding) == kOk, "transpose of anything");
}

void hash(Input& in) {
  const int64_t sizes[] = {1, 2, 4, 8};
  std::vector<Memory> memory;
  std::vector<HashPart> parts;
  const int64_t count = in.up_to(3);
  for (int64_t k = 0; k < count; ++k) {
    const int64_t bytes = sizes[in.up_to(3)], stride = 1 + in.up_to(2), n = in.up_to(255) * 90;
    memory.emplace_back(n ? (n - 1) * stride + 1 : 0, bytes);
    for (int64_t b = 0; b < 20 && n; ++b)
      static_cast<uint8_t*>(memory.back().get())[in.byte() % (memory.back().size() * bytes)] =
          in.byte();
    parts.push_back({memory.back().get(), n, stride, bytes, in.flag()});
  }
  uint64_t one, many;
  require(gatv2_content_hash(parts.data(), count, 1, &one) == kOk, "hash");
  require(gatv2_content_hash(parts.data(), count, 3, &many) == kOk, "hash of threads");
  require(one == many, "threads do not matter");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  switch (in.up_to(3)) {
    case 0: check(in); break;
    case 1: hash(in); break;
    default: group(in);
  }
  return 0;
}
