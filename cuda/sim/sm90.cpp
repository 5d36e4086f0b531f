// Transaction barriers, tensor copies and warpgroup products of the simulator. See sm90.h.
#include "async.h"

#include <algorithm>

#include "../../ffi/tensor_map.h"

namespace dcsim {
namespace {

/// A tensor map as the simulated device encodes it.
struct Map {
    uint64_t magic, address, strides[4];  ///< strides in bytes, of axes 1…
    uint32_t extents[5], box[5];
    uint16_t rank, element, swizzle;  ///< the last two in bytes
};
static_assert(sizeof(Map) <= sizeof(TensorMap), "room of a tensor map");
constexpr uint64_t MAP_MAGIC = 0x70616d726f736e74, BARRIER_MAGIC = 0x7265697272616264;
constexpr unsigned char POISON = 0xFF;

const Map& decode(const TensorMap* map, std::initializer_list<int> at, const char* what) {
    const Map& m = *reinterpret_cast<const Map*>(map);
    if (reinterpret_cast<uintptr_t>(map) % 64) fail("%s: the tensor map is not aligned to 64 bytes", what);
    if (m.magic != MAP_MAGIC) fail("%s: what it is given is not a tensor map of this device", what);
    if (m.rank != at.size()) fail("%s: %zu coordinates of a tensor map of %u axes", what, at.size(), m.rank);
    return m;
}

unsigned box_bytes(const Map& m) {
    unsigned n = m.element;
    for (unsigned i = 0; i < m.rank; ++i) n *= m.box[i];
    return n;
}

/// Where byte `at` of shared memory goes in a tile of this swizzle (bytes, or 0).
unsigned swizzled(unsigned at, unsigned swizzle) {
    return swizzle ? at ^ (at >> 7 & (swizzle / 16 - 1)) << 4 : at;
}

/// Calls `row(offset in the box, address, bytes before, bytes inside, bytes of the row)` for every row of a box at
/// `at`: of the row's bytes those inside the tensor begin at `address`.
template <class Row>
void each_row(const Map& m, const std::vector<int>& at, Row row) {
    const int64_t c0 = at[0], inner = m.box[0], end = std::min<int64_t>(c0 + inner, m.extents[0]);
    const int64_t first = std::min(std::max<int64_t>(c0, 0), end), inside = std::max<int64_t>(end - first, 0);
    unsigned rows = 1;
    for (unsigned i = 1; i < m.rank; ++i) rows *= m.box[i];
    for (unsigned r = 0; r < rows; ++r) {
        bool exists = true;
        uint64_t address = m.address + first * m.element;
        for (unsigned i = 1, rest = r; i < m.rank; rest /= m.box[i], ++i) {
            const int64_t c = at[i] + int64_t(rest % m.box[i]);
            exists &= c >= 0 && c < int64_t(m.extents[i]);
            address += c * int64_t(m.strides[i - 1]);
        }
        const unsigned e = m.element;
        row(r * unsigned(inner) * e, address, unsigned(first - c0) * e, exists ? unsigned(inside) * e : 0);
    }
}

}  // namespace

// ---- Blocks and threads -----------------------------------------------------------------------

void Async::begin(unsigned char* at, unsigned bytes, unsigned count) {
    shared = at;
    shared_bytes = bytes;
    threads = count;
    if (!used) return;
    used = false;
    barriers.clear();
    per_thread.clear();
    issued.clear();
}

void Async::use() {
    if (used) return;
    used = true;
    image.assign(shared_bytes, POISON);
    per_thread.resize(threads);
    issued.resize((threads + 127) / 128);
}

Async::PerThread& Async::own() {
    use();
    return per_thread[current->thread_index.x];
}

unsigned Async::offset(const void* p, size_t bytes, const char* what) const {
    const auto* at = static_cast<const unsigned char*>(p);
    if (at < shared || at + bytes > shared + shared_bytes)
        fail("%s at %p (%zu bytes), which is not within the block's shared memory", what, p, bytes);
    return unsigned(at - shared);
}

void Async::check_fenced(unsigned at, unsigned bytes, const char* what) {
    if (!std::memcmp(shared + at, image.data() + at, bytes)) return;
    while (shared[at] == image[at]) ++at;
    fail("%s byte %u of shared memory, which was stored to without fence_async_shared since, or too early", what, at);
}

void Async::thread_ends() {
    if (!used) return;
    const PerThread& t = own();
    if (!t.stores.empty()) fail("the thread ended with %zu tensor stores not waited for", t.stores.size());
    if (!t.products.empty()) fail("the thread ended with %zu products (wgmma) not waited for", t.products.size());
}

std::string Async::left_over() const {
    char text[200];
    for (const Mbarrier& b : barriers) {
        if (b.loads.empty()) continue;
        snprintf(text, sizeof text, "the block ended with %zu tensor copies that nobody waited for at the mbarrier at byte %u of shared memory",
                 b.loads.size(), b.at);
        return text;
    }
    for (size_t g = 0; g < issued.size(); ++g) {
        for (unsigned i = unsigned(g) * 128; i < std::min(threads, unsigned(g + 1) * 128); ++i) {
            if (per_thread[i].issued == issued[g].size()) continue;
            snprintf(text, sizeof text, "thread %u issued %zu products (wgmma) while others of its warpgroup issued %zu", i,
                     per_thread[i].issued, issued[g].size());
            return text;
        }
    }
    return {};
}

void Async::fence() {
    use();
    std::memcpy(image.data(), shared, shared_bytes);
}

// ---- Barriers ---------------------------------------------------------------------------------

struct Async::BarrierWait final : Condition {
    const Mbarrier& b;
    unsigned parity;
    BarrierWait(const Mbarrier& b, unsigned parity) : b(b), parity(parity) {}
    bool holds() const override { return b.phase % 2 != parity; }
    std::string what() const override {
        char text[200];
        snprintf(text, sizeof text,
                 "the end of phase %u of the mbarrier at byte %u of shared memory, which has %u of %u arrivals and copies of "
                 "%llu of %llu bytes",
                 b.phase, b.at, b.count - b.pending, b.count, static_cast<unsigned long long>(b.issued),
                 static_cast<unsigned long long>(b.expected));
        return text;
    }
};

void Async::init(void* barrier, unsigned count) {
    use();
    check_aligned(barrier, 8, "mbarrier");
    const unsigned at = offset(barrier, 8, "mbarrier");
    if (!count) fail("an mbarrier at byte %u of shared memory is made for no arrivals", at);
    for (const Mbarrier& b : barriers)
        if (b.at == at) fail("the mbarrier at byte %u of shared memory is initialised twice", at);
    Mbarrier b{};
    b.at = at;
    b.count = b.pending = count;
    b.by = current->thread_index.x;
    barriers.push_back(b);
    std::memcpy(barrier, &BARRIER_MAGIC, 8);
}

void Async::fence_init() {
    use();
    for (Mbarrier& b : barriers) b.fenced |= b.by == current->thread_index.x;
}

Async::Mbarrier& Async::find(void* barrier, const char* what) {
    use();
    const unsigned at = offset(barrier, 8, what);
    for (Mbarrier& b : barriers) {
        if (b.at != at) continue;
        if (std::memcmp(barrier, &BARRIER_MAGIC, 8))
            fail("%s: the mbarrier at byte %u of shared memory has been overwritten", what, at);
        return b;
    }
    fail("%s: the mbarrier at byte %u of shared memory has not been initialised yet", what, at);
}

void Async::flip(Mbarrier& b) {
    for (const Load& l : b.loads) {
        for (unsigned i = 0; i < l.bytes.size(); i += 16) {
            const unsigned to = swizzled(l.to + i, l.swizzle);
            std::memcpy(shared + to, l.bytes.data() + i, 16);
            std::memcpy(image.data() + to, l.bytes.data() + i, 16);
        }
    }
    b.loads.clear();
    b.expected = b.issued = 0;
    b.pending = b.count;
    ++b.phase;
}

void Async::arrive(void* barrier, unsigned bytes) {
    Mbarrier& b = find(barrier, "arrival");
    if (!b.pending)
        fail("arrival at the mbarrier at byte %u of shared memory, of which phase %u has all its %u arrivals and still waits for "
             "copies", b.at, b.phase, b.count);
    b.expected += bytes;
    if (--b.pending == 0 && !b.expected && !b.issued) flip(b);
}

void Async::wait(void* barrier, unsigned parity) {
    Mbarrier& b = find(barrier, "wait");
    if (parity > 1) fail("wait for parity %u of an mbarrier; expected 0 or 1", parity);
    const BarrierWait condition(b, parity);
    if (condition.holds()) return;
    ++b.waiting;
    wait_until(condition);
    --b.waiting;
}

bool Async::advance() {
    if (!used) return false;
    for (Mbarrier& b : barriers) {
        if (!b.waiting || b.pending || b.expected != b.issued) continue;
        flip(b);
        return true;
    }
    return false;
}

// ---- Tensor copies ----------------------------------------------------------------------------

void Async::load(void* to, const TensorMap* map, void* barrier, std::initializer_list<int> at) {
    const Map& m = decode(map, at, "tensor load");
    Mbarrier& b = find(barrier, "tensor load");
    if (!b.fenced)
        fail("tensor load with the mbarrier at byte %u of shared memory before thread %u, which made it, called "
             "fence_barrier_init", b.at, b.by);
    check_aligned(to, 128, "tensor load to shared memory");
    const unsigned bytes = box_bytes(m);
    Load l{offset(to, bytes, "tensor load to shared memory"), m.swizzle, std::vector<unsigned char>(bytes)};
    for (const Mbarrier& other : barriers)
        for (const Load& o : other.loads)
            if (l.to < o.to + o.bytes.size() && o.to < l.to + bytes)
                fail("tensor load to byte %u of shared memory, to which another is still under way", std::max(l.to, o.to));
    check_fenced(l.to, bytes, "tensor load overwrites");
    each_row(m, at, [&](unsigned row, uint64_t address, unsigned before, unsigned inside) {
        if (inside) std::memcpy(&l.bytes[row + before], reinterpret_cast<const void*>(address), inside);
    });
    std::memset(shared + l.to, POISON, bytes);  // whoever reads before the phase ends reads poison
    std::memset(image.data() + l.to, POISON, bytes);
    b.issued += bytes;
    b.loads.push_back(std::move(l));
    if (!b.pending && b.issued > b.expected)
        fail("tensor loads of %llu bytes on the mbarrier at byte %u of shared memory, which expects %llu",
             static_cast<unsigned long long>(b.issued), b.at, static_cast<unsigned long long>(b.expected));
}

void Async::store(const TensorMap* map, const void* from, std::initializer_list<int> at) {
    const Map& m = decode(map, at, "tensor store");
    check_aligned(from, 128, "tensor store from shared memory");
    PerThread& t = own();
    t.stores.push_back({map, offset(from, box_bytes(m), "tensor store from shared memory"), t.store_group, at});
}

void Async::store_commit() { ++own().store_group; }

void Async::store_wait(unsigned keep) {
    PerThread& t = own();
    const unsigned done = t.store_group > keep ? t.store_group - keep : 0;
    auto left = std::stable_partition(t.stores.begin(), t.stores.end(), [&](const Store& s) { return s.group < done; });
    for (auto s = t.stores.begin(); s != left; ++s) {
        const Map& m = *reinterpret_cast<const Map*>(s->map);
        check_fenced(s->from, box_bytes(m), "tensor store reads");
        each_row(m, s->at, [&](unsigned row, uint64_t address, unsigned before, unsigned inside) {
            for (unsigned i = 0; i < inside; ++i)
                reinterpret_cast<unsigned char*>(address)[i] = shared[swizzled(s->from + row + before + i, m.swizzle)];
        });
    }
    t.stores.erase(t.stores.begin(), left);
}

// ---- Products of warpgroups -------------------------------------------------------------------

namespace {

/// Bytes of a row of the descriptor's swizzle, and of the pattern that repeats: 8 rows.
unsigned swizzle_of(uint64_t desc) {
    static constexpr unsigned BYTES[4] = {0, 128, 64, 32};
    return BYTES[desc >> 62];
}

void check_desc(uint64_t desc, const char* which) {
    const unsigned start = (desc & 0x3fff) << 4, span = swizzle_of(desc);
    if (span && start % (8 * span) >= span)
        fail("wgmma: the descriptor of %s begins at byte %u of shared memory, which is not in the first of eight rows of %u bytes",
             which, start, span);
}

}  // namespace

/// Where element (outer, k) of an operand lies: the canonical layouts of the PTX ISA ("Strides" under "Matrix
/// descriptor"), as CUTLASS writes them down in mma_traits_sm90_gmma.hpp.
unsigned Async::element(uint64_t desc, bool trans, int outer, int k) const {
    const unsigned start = (desc & 0x3fff) << 4, leading = (desc >> 16 & 0x3fff) << 4, stride = (desc >> 32 & 0x3fff) << 4;
    const unsigned span = swizzle_of(desc);
    const unsigned o = unsigned(outer), i = unsigned(k);
    unsigned at;
    if (!trans) {
        const unsigned row = span ? span : 16;
        at = start + o % 8 * row + o / 8 * stride + (span ? i / 8 * 16 : i / 8 * leading) + i % 8 * 2;
    } else if (span) {
        const unsigned across = span / 2;  // elements of a row
        at = start + o % across * 2 + o / across * leading + i % 8 * span + i / 8 * stride;
    } else {
        at = start + o % 8 * 2 + o / 8 * stride + i % 8 * 16 + i / 8 * leading;
    }
    return swizzled(at, span);
}

void Async::multiply_fence() { own().fenced = true; }

void Async::multiply(const Wgmma& op) {
    PerThread& t = own();
    const unsigned thread = current->thread_index.x, group = thread / 128;
    if (group * 128 + 128 > threads) fail("wgmma in a warpgroup of which only %u threads exist", threads - group * 128);
    if (!t.fenced) fail("wgmma without wgmma_fence before the first, or after a wait");
    if (!op.a_own) check_desc(op.a, "a");
    check_desc(op.b, "b");
    // The warps of a warpgroup issue the same products.
    const Issued now{op.a, op.b, op.n, !op.a_own, op.a_trans, op.b_trans, op.accumulate};
    auto& log = issued[group];
    if (t.issued == log.size()) log.push_back(now);
    if (!(log[t.issued] == now)) fail("wgmma: product %zu of the thread is another than that of its warpgroup", t.issued);
    ++t.issued;
    Product p{op, {}, t.group};
    if (op.a_own) std::copy(op.a_own, op.a_own + 4, p.a_own);
    t.products.push_back(p);
    const size_t count = size_t(op.n) / 2;
    auto acc = std::find_if(t.accumulators.begin(), t.accumulators.end(), [&](const Accumulators& a) { return a.at == op.acc; });
    if (acc == t.accumulators.end()) {
        t.accumulators.push_back({op.acc, std::vector<float>(op.acc, op.acc + count), 0});
        acc = t.accumulators.end() - 1;
    } else if (acc->values.size() != count) {
        fail("wgmma of %d columns to accumulators of a product of %zu columns that is under way", op.n, acc->values.size() * 2);
    }
    acc->last = t.group;
    std::memset(op.acc, POISON, count * sizeof(float));  // whoever reads before the wait reads poison
}

void Async::multiply_commit() { ++own().group; }

void Async::multiply_wait(unsigned keep) {
    own();
    meet<char>("wgmma.wait_group", 0xffffffffu, keep, [](WarpOp& op) {
        const unsigned keep = *static_cast<const unsigned*>(op.in[0]);
        for (int i = 0; i < 32; ++i) {
            if (*static_cast<const unsigned*>(op.in[i]) != keep) fail("wgmma_wait for other groups than lane 0");
            *static_cast<char*>(op.out[i]) = 0;
        }
        async().run_products(current->thread_index.x / 32, keep);
    });
}

void Async::run_products(unsigned warp, unsigned keep) {
    PerThread* lanes = &per_thread[warp * 32];
    for (unsigned l = 1; l < 32; ++l)
        if (lanes[l].issued != lanes[0].issued || lanes[l].group != lanes[0].group)
            fail("wgmma_wait: lane %u has issued %zu products in %u groups, lane 0 has issued %zu in %u", l, lanes[l].issued,
                 lanes[l].group, lanes[0].issued, lanes[0].group);
    const unsigned done = lanes[0].group > keep ? lanes[0].group - keep : 0;
    std::vector<double> b;
    size_t ran = 0;
    for (; ran < lanes[0].products.size() && lanes[0].products[ran].group < done; ++ran) {
        const Wgmma& op = lanes[0].products[ran].op;
        const auto read = [&](uint64_t desc, bool trans, int outer, int k) {
            const unsigned at = element(desc, trans, outer, k);
            if (at + 2 > shared_bytes) fail("wgmma reads byte %u of the block's %u bytes of shared memory", at, shared_bytes);
            if (std::memcmp(shared + at, image.data() + at, 2)) check_fenced(at, 2, "wgmma reads");
            uint16_t bits;
            std::memcpy(&bits, shared + at, 2);
            return double(op.value(bits));
        };
        double a[16][16];
        for (int row = 0; row < 16; ++row) {
            for (int k = 0; k < 16; ++k) {
                if (op.a_own) {
                    const uint32_t pair = lanes[row % 8 * 4 + k % 8 / 2].products[ran].a_own[row / 8 + k / 8 * 2];
                    a[row][k] = op.value(uint16_t(pair >> k % 2 * 16));
                } else {
                    a[row][k] = read(op.a, op.a_trans, int(warp % 4) * 16 + row, k);
                }
            }
        }
        b.resize(16 * size_t(op.n));
        for (int k = 0; k < 16; ++k)
            for (int col = 0; col < op.n; ++col) b[size_t(k) * op.n + col] = read(op.b, op.b_trans, col, k);
        float* acc[32];
        for (int l = 0; l < 32; ++l) {
            float* at = lanes[l].products[ran].op.acc;
            acc[l] = std::find_if(lanes[l].accumulators.begin(), lanes[l].accumulators.end(),
                                  [&](const Accumulators& x) { return x.at == at; })->values.data();
        }
        std::vector<double> sums(op.n);
        for (int row = 0; row < 16; ++row) {
            const auto place = [&](int col) -> float& {
                return acc[row % 8 * 4 + col % 8 / 2][col / 8 * 4 + row / 8 * 2 + col % 2];
            };
            for (int col = 0; col < op.n; ++col) sums[col] = op.accumulate ? place(col) : 0.0f;
            for (int k = 0; k < 16; ++k) {
                const double x = a[row][k];
                const double* y = &b[size_t(k) * op.n];
                for (int col = 0; col < op.n; ++col) sums[col] += x * y[col];
            }
            for (int col = 0; col < op.n; ++col) place(col) = float(sums[col]);
        }
        count_mma(2ull * 16 * op.n * 16);
    }
    for (unsigned l = 0; l < 32; ++l) {
        PerThread& t = lanes[l];
        t.fenced = false;
        t.products.erase(t.products.begin(), t.products.begin() + ran);
        for (size_t i = 0; i < t.accumulators.size();) {
            Accumulators& acc = t.accumulators[i];
            if (acc.last >= done) {
                ++i;
                continue;
            }
            const size_t bytes = acc.values.size() * sizeof(float);
            const auto* now = reinterpret_cast<const unsigned char*>(acc.at);
            if (!std::all_of(now, now + bytes, [](unsigned char c) { return c == POISON; }))
                fail("lane %u has changed accumulators of a product (wgmma) before its wait", l);
            std::memcpy(acc.at, acc.values.data(), bytes);
            t.accumulators.erase(t.accumulators.begin() + i);
        }
    }
}

// ---- What cuda/include/sm90.cuh calls ---------------------------------------------------------

void mbarrier_init(void* barrier, unsigned count) { async().init(barrier, count); }
void mbarrier_arrive(void* barrier, unsigned bytes) { async().arrive(barrier, bytes); }
void mbarrier_wait(void* barrier, unsigned parity) { async().wait(barrier, parity); }
void fence_mbarrier_init() { async().fence_init(); }
void fence_async() { async().fence(); }
bool elect() {
    // The last lane: no kernel may rely on the first.
    return meet<bool>("elect.sync", 0xffffffffu, '\0', [](WarpOp& op) {
        for (int i = 0; i < 32; ++i) *static_cast<bool*>(op.out[i]) = i == 31;
    });
}
void tma_load(void* to, const TensorMap* map, void* barrier, std::initializer_list<int> at) {
    async().load(to, map, barrier, at);
}
void tma_store(const TensorMap* map, const void* from, std::initializer_list<int> at) { async().store(map, from, at); }
void tma_store_commit() { async().store_commit(); }
void tma_store_wait(unsigned keep) { async().store_wait(keep); }
void wgmma(const Wgmma& op) { async().multiply(op); }
void wgmma_fence() { async().multiply_fence(); }
void wgmma_commit() { async().multiply_commit(); }
void wgmma_wait(unsigned keep) { async().multiply_wait(keep); }
unsigned wgmma_address(const void* at, unsigned leading_bytes, unsigned stride_bytes) {
    check_aligned(at, 16, "wgmma: an operand");
    if (leading_bytes % 16 || stride_bytes % 16 || leading_bytes >= 1 << 18 || stride_bytes >= 1 << 18)
        fail("wgmma: a descriptor with steps of %u and %u bytes; expected multiples of 16 below 2^18", leading_bytes, stride_bytes);
    return async().offset(at, 16, "wgmma: an operand");
}

}  // namespace dcsim

/// Writes the tensor map of a tensor as this simulated device encodes it. Extents and box from the innermost axis;
/// strides in bytes from the second.
extern "C" void dcsim_tensor_map(uint64_t out[16], uint64_t address, uint32_t element_bytes, uint32_t rank,
                                 const uint64_t* extents, const uint64_t* strides, const uint32_t* box,
                                 uint32_t swizzle_bytes) {
    dcsim::Map m{};
    m.magic = dcsim::MAP_MAGIC;
    m.address = address;
    m.rank = uint16_t(rank);
    m.element = uint16_t(element_bytes);
    m.swizzle = uint16_t(swizzle_bytes);
    for (uint32_t i = 0; i < rank; ++i) {
        m.extents[i] = uint32_t(extents[i]);
        m.box[i] = box[i];
        if (i) m.strides[i - 1] = strides[i - 1];
    }
    std::memset(out, 0, sizeof(TensorMap));
    std::memcpy(out, &m, sizeof m);
}
