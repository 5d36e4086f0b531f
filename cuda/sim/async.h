// Between the scheduler (sim.cpp) and the asynchronous machinery of sm_90 (sm90.cpp).
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "sm90.h"

namespace dcsim {

/// What a thread waits for.
struct Condition {
    virtual bool holds() const = 0;
    /// "the mbarrier at byte 64 of shared memory, which …"
    virtual std::string what() const = 0;

  protected:
    ~Condition() = default;
};
/// Lets other threads run until `condition` holds.
void wait_until(const Condition& condition);

/// What is under way in a block.
class Async {
  public:
    /// A block begins.
    void begin(unsigned char* shared, unsigned bytes, unsigned threads);
    /// No thread can run: lets one awaited phase end. False if there is none.
    bool advance();
    /// Complains of what the current thread leaves under way.
    void thread_ends();
    /// What nobody has waited for now that all threads have ended; empty: nothing.
    std::string left_over() const;

    void init(void* barrier, unsigned count);
    void arrive(void* barrier, unsigned bytes);
    void wait(void* barrier, unsigned parity);
    void fence_init();
    void fence();
    void load(void* to, const TensorMap* map, void* barrier, std::initializer_list<int> at);
    void store(const TensorMap* map, const void* from, std::initializer_list<int> at);
    void store_commit();
    void store_wait(unsigned keep);
    void multiply(const Wgmma& op);
    void multiply_fence();
    void multiply_commit();
    void multiply_wait(unsigned keep);
    /// Offset of [p, p + bytes) in shared memory; complains if it is not there.
    unsigned offset(const void* p, size_t bytes, const char* what) const;

  private:
    /// A box on its way to shared memory.
    struct Load {
        unsigned to, swizzle;
        std::vector<unsigned char> bytes;
    };
    struct Mbarrier {
        unsigned at, count, pending, by;
        unsigned phase = 0;
        uint64_t expected = 0, issued = 0;
        unsigned waiting = 0;
        bool fenced = false;
        std::vector<Load> loads;
    };
    struct BarrierWait;
    struct Store {
        const TensorMap* map;
        unsigned from, group;
        std::vector<int> at;
    };
    struct Accumulators {
        float* at;
        std::vector<float> values;
        unsigned last;  ///< group of the last product that adds to them
    };
    struct Product {
        Wgmma op;
        uint32_t a_own[4];
        unsigned group;
    };
    struct PerThread {
        std::vector<Store> stores;
        unsigned store_group = 0;
        std::vector<Product> products;
        std::vector<Accumulators> accumulators;
        unsigned group = 0;
        bool fenced = false;
        size_t issued = 0;
    };
    /// Which product a warpgroup issues, to hold its warps together.
    struct Issued {
        uint64_t a, b;
        int n;
        bool a_shared, a_trans, b_trans, accumulate;
        bool operator==(const Issued& o) const {
            return a == o.a && b == o.b && n == o.n && a_shared == o.a_shared && a_trans == o.a_trans &&
                   b_trans == o.b_trans && accumulate == o.accumulate;
        }
    };

    Mbarrier& find(void* barrier, const char* what);
    void flip(Mbarrier& b);
    /// Fails if the two images of shared memory differ in these bytes.
    void check_fenced(unsigned offset, unsigned bytes, const char* what);
    unsigned element(uint64_t desc, bool trans, int outer, int k) const;
    void run_products(unsigned warp, unsigned keep);
    PerThread& own();
    void use();

    bool used = false;
    unsigned char* shared = nullptr;
    unsigned shared_bytes = 0, threads = 0;
    std::vector<unsigned char> image;  ///< shared memory as asynchronous reads see it
    std::deque<Mbarrier> barriers;
    std::vector<PerThread> per_thread;
    std::vector<std::vector<Issued>> issued;  ///< by warpgroup
};

/// Of the block that this OS thread runs.
Async& async();

}  // namespace dcsim
