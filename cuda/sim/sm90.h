// The simulated side of cuda/include/sm90.cuh. What is simulated:
// * A tensor copy to shared memory lands only when a thread waits for its phase and no thread of the block can go
//   on otherwise; till then its place holds poison.
// * A product runs at the wait of each warp: then it reads shared memory (as late as hardware may), and till then
//   its accumulators hold poison.
// * wgmma and tensor copies see a second image of shared memory, to which `fence_async_shared` carries what is
//   stored: where the two differ at a read, the fence is missing (or the operand was overwritten too early). A
//   fence carries over the stores of all threads so far; that one thread has fenced for others is caught where
//   the schedule lets it run first.
#pragma once

#include <initializer_list>

#include "sim.h"

struct TensorMap;

namespace dcsim {

void mbarrier_init(void* barrier, unsigned count);
/// An arrival that also expects this many bytes of copies.
void mbarrier_arrive(void* barrier, unsigned bytes);
void mbarrier_wait(void* barrier, unsigned parity);
void fence_mbarrier_init();
void fence_async();
bool elect();

void tma_load(void* to, const TensorMap* map, void* barrier, std::initializer_list<int> at);
void tma_store(const TensorMap* map, const void* from, std::initializer_list<int> at);
void tma_store_commit();
void tma_store_wait(unsigned keep);

/// One product of a warpgroup, as a thread issues it.
struct Wgmma {
    float* acc;
    int n;
    float (*value)(uint16_t);  ///< of an element's bits
    bool a_trans, b_trans, accumulate;
    uint64_t a;             ///< descriptor
    const uint32_t* a_own;  ///< or four registers
    uint64_t b;
};
void wgmma(const Wgmma& op);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(unsigned keep);
/// The address of a descriptor; complains of what a descriptor cannot hold.
unsigned wgmma_address(const void* at, unsigned leading_bytes, unsigned stride_bytes);

}  // namespace dcsim
