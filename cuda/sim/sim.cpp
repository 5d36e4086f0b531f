// The simulator: fibers, schedules, faults. See sim.h.
#include "../../ffi/tensor_map.h"
#include "async.h"

#include <algorithm>
#include <atomic>
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define DCSIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DCSIM_ASAN 1
#endif
#endif
#ifdef DCSIM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace dcsim {
namespace {

constexpr size_t STACK = 256 << 10;
constexpr unsigned MAX_THREADS = 1024;
constexpr unsigned BARRIERS = 16;

// ---- Switching stacks -------------------------------------------------------------------------

#if defined(__x86_64__)
extern "C" void dcsim_switch(void** save, void* load);
asm(R"(
    .text
    .globl dcsim_switch
    .hidden dcsim_switch
    .type dcsim_switch, @function
dcsim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size dcsim_switch, .-dcsim_switch
)");
struct Context {
    void* sp = nullptr;
    void start(unsigned char* stack, size_t size, void (*entry)()) {
        // `entry` is entered by `ret`: the stack must then be 8 past a multiple of 16.
        void** top = reinterpret_cast<void**>(stack + size) - 2;
        top[0] = reinterpret_cast<void*>(entry);
        top[1] = nullptr;
        sp = top - 6;
        std::fill(top - 6, top, nullptr);
    }
    static void swap(Context& from, Context& to) { dcsim_switch(&from.sp, to.sp); }
};
#else
struct Context {
    ucontext_t u;
    void start(unsigned char* stack, size_t size, void (*entry)()) {
        getcontext(&u);
        u.uc_stack.ss_sp = stack;
        u.uc_stack.ss_size = size;
        u.uc_link = nullptr;
        makecontext(&u, entry, 0);
    }
    static void swap(Context& from, Context& to) { swapcontext(&from.u, &to.u); }
};
#endif

enum class State { ready, barrier, warp, condition, done };

struct Fiber : Thread {
    Context context;
    State state = State::done;
    unsigned barrier_id = 0, barrier_count = 0;
    unsigned generation = 0;
    unsigned group = 0;  ///< index of the copy group that is open
    const Condition* condition = nullptr;
    std::vector<PendingCopy> copies;
    unsigned char* stack = nullptr;
    void* fake_stack = nullptr;
};

/// Everything that one OS thread needs to run blocks.
struct Worker {
    std::vector<Fiber> fibers{MAX_THREADS};
    std::vector<WarpOp> warps{MAX_THREADS / 32};
    unsigned char* stacks = nullptr;
    size_t stack_pitch = 0;
    unsigned char* shared = nullptr;  ///< ends at a guard page
    size_t shared_room = 0;
    unsigned arrived[BARRIERS] = {}, wanted[BARRIERS] = {};
    const char* barrier_file[BARRIERS] = {};
    int barrier_line[BARRIERS] = {};
    Context scheduler;
    void* scheduler_fake_stack = nullptr;
    const void* scheduler_bottom = nullptr;
    size_t scheduler_size = 0;
    sigjmp_buf escape;
    bool running = false;
    unsigned threads = 0;
    void (*entry)(const void*) = nullptr;
    const void* params = nullptr;
    unsigned param_bytes = 0, shared_bytes = 0;
    unsigned char* shared_start = nullptr;  ///< of the running block
    const char* kernel = "";
    Async async;
    std::string error;
    std::vector<unsigned char> alternate = std::vector<unsigned char>(64 << 10);

    Worker() {
        const size_t page = sysconf(_SC_PAGESIZE);
        stack_pitch = STACK + page;
        const size_t total = stack_pitch * MAX_THREADS;
        void* p = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) std::abort();
        stacks = static_cast<unsigned char*>(p);
        for (unsigned i = 0; i < MAX_THREADS; ++i) {
            mprotect(stacks + i * stack_pitch, page, PROT_NONE);
            fibers[i].stack = stacks + i * stack_pitch + page;
        }
        shared_room = 256 << 10;
        p = mmap(nullptr, shared_room + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) std::abort();
        shared = static_cast<unsigned char*>(p) + page;
        mprotect(p, page, PROT_NONE);
        mprotect(shared + shared_room, page, PROT_NONE);
        stack_t alt{};
        alt.ss_sp = alternate.data();
        alt.ss_size = alternate.size();
        sigaltstack(&alt, nullptr);
    }
    ~Worker() {
        stack_t off{};
        off.ss_flags = SS_DISABLE;
        sigaltstack(&off, nullptr);
        const size_t page = sysconf(_SC_PAGESIZE);
        munmap(stacks, stack_pitch * MAX_THREADS);
        munmap(shared - page, shared_room + 2 * page);
    }
    Worker(const Worker&) = delete;

    std::string where(const Thread* t) const {
        char text[200];
        snprintf(text, sizeof text, "kernel %s, block (%u, %u, %u), thread %u", kernel, t->block_index.x,
                 t->block_index.y, t->block_index.z, t->thread_index.x);
        return text;
    }

    /// What the address `at`, which may not be accessed, is nearest to.
    std::string near(const void* at) const {
        const auto address = reinterpret_cast<uintptr_t>(at);
        const auto begin = [](const unsigned char* p) { return reinterpret_cast<uintptr_t>(p); };
        char text[160];
        if (address - begin(stacks) < stack_pitch * MAX_THREADS) return "the stack of the thread, which is full";
        const uintptr_t end = begin(shared_start) + shared_bytes;
        if (address >= end && address - begin(shared) < shared_room + size_t(sysconf(_SC_PAGESIZE))) {
            snprintf(text, sizeof text, "%zu bytes past the end of the block's %u bytes of shared memory",
                     size_t(address - end), shared_bytes);
            return text;
        }
        // A hint: the address among the parameters that is nearest, if any is near at all.
        uintptr_t best = 16 << 20;
        std::string found = "outside every buffer";
        for (unsigned i = 0; i + 8 <= param_bytes; i += 8) {
            uint64_t value;
            std::memcpy(&value, static_cast<const unsigned char*>(params) + i, 8);
            const uintptr_t distance = address > value ? address - value : value - address;
            if (value < 4096 || distance >= best) continue;
            best = distance;
            snprintf(text, sizeof text,
                     "outside every buffer, %zu bytes %s the address that byte %u of the parameters has",
                     size_t(distance), address < value ? "before" : "after", i);
            found = text;
        }
        return found;
    }

    /// Alignment of shared memory: of all kernels, and of those that swizzle tiles (`*_sm90`).
    static constexpr size_t ALIGN = 128, MOST_ALIGN = 1024;
    size_t shared_align() const {
        const size_t n = std::strlen(kernel);
        return n > 5 && !std::strcmp(kernel + n - 5, "_sm90") ? MOST_ALIGN : ALIGN;
    }

    /// Bytes before a block's shared memory that are watched, as is what lies between its end and the guard page.
    static constexpr size_t MARGIN = 64;
    /// Whether these are still poison; if not, the error names the thread that ran last.
    bool surroundings_hold(const Thread* last) {
        static const std::vector<unsigned char> poison(MOST_ALIGN, 0xFF);
        const unsigned char *start = shared_start, *end = start + shared_bytes, *room = shared + shared_room;
        const bool before = std::memcmp(start - MARGIN, poison.data(), MARGIN);
        if (!before && !std::memcmp(end, poison.data(), room - end)) return true;
        // The nearest byte that was written.
        const unsigned char* p = before ? start - 1 : end;
        while (*p == 0xFF) before ? --p : ++p;
        char text[160];
        snprintf(text, sizeof text, ": has written %zu bytes %s the block's %u bytes of shared memory",
                 size_t(before ? start - p : p - end), before ? "before the start of" : "past the end of",
                 shared_bytes);
        error = where(last) + text;
        return false;
    }
};

thread_local std::unique_ptr<Worker> worker;

Fiber* self() { return static_cast<Fiber*>(current); }

void to_scheduler() {
    Worker& w = *worker;
    Fiber* f = self();
#ifdef DCSIM_ASAN
    __sanitizer_start_switch_fiber(f->state == State::done ? nullptr : &f->fake_stack, w.scheduler_bottom,
                                   w.scheduler_size);
#endif
    Context::swap(f->context, w.scheduler);
#ifdef DCSIM_ASAN
    __sanitizer_finish_switch_fiber(f->fake_stack, nullptr, nullptr);
#endif
}

void to_fiber(Fiber& f) {
    Worker& w = *worker;
    current = &f;
#ifdef DCSIM_ASAN
    __sanitizer_start_switch_fiber(&w.scheduler_fake_stack, f.stack, STACK);
#endif
    Context::swap(w.scheduler, f.context);
#ifdef DCSIM_ASAN
    __sanitizer_finish_switch_fiber(w.scheduler_fake_stack, nullptr, nullptr);
#endif
    current = nullptr;
}

void fiber_main() {
    Worker& w = *worker;
    Fiber* f = self();
#ifdef DCSIM_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &w.scheduler_bottom, &w.scheduler_size);
#endif
    w.entry(w.params);
    if (!f->copies.empty()) fail("the thread ended with %zu asynchronous copies not waited for", f->copies.size());
    w.async.thread_ends();
    f->state = State::done;
    to_scheduler();
    std::abort();  // a finished fiber is never resumed
}

// ---- Faults -----------------------------------------------------------------------------------

struct sigaction previous_segv, previous_bus;

void on_fault(int signal, siginfo_t* info, void* context) {
    Worker* w = worker.get();
    if (w && w->running && current) {
        const char* what = "accesses";
#if defined(__x86_64__)
        const auto* registers = &static_cast<const ucontext_t*>(context)->uc_mcontext;
        what = registers->gregs[REG_ERR] & 2 ? "writes to" : "reads";
#endif
        char text[80];
        if (signal == SIGSEGV && info->si_code == SI_KERNEL) {
            // The processor does not say which.
            w->error = w->where(current) +
                       ": accesses an address that cannot exist (poison?), or a vector at a misaligned one";
        } else {
            snprintf(text, sizeof text, ": %s %p: ", what, info->si_addr);
            w->error = w->where(current) + text + w->near(info->si_addr);
        }
        siglongjmp(w->escape, 1);
    }
    // Not ours: the previous handler, or the default.
    struct sigaction& old = signal == SIGSEGV ? previous_segv : previous_bus;
    if (old.sa_flags & SA_SIGINFO) {
        old.sa_sigaction(signal, info, context);
    } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
        old.sa_handler(signal);
    } else {
        sigaction(signal, &old, nullptr);
        raise(signal);
    }
}

void install_handlers() {
#ifndef DCSIM_ASAN
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction a{};
        a.sa_sigaction = on_fault;
        a.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigemptyset(&a.sa_mask);
        sigaction(SIGSEGV, &a, &previous_segv);
        sigaction(SIGBUS, &a, &previous_bus);
    });
#endif
}

// ---- Running a block --------------------------------------------------------------------------

void stuck(Worker& w) {
    unsigned at_barrier = 0, in_warp = 0, in_condition = 0, done = 0;
    const Fiber* waiting = nullptr;
    for (unsigned i = 0; i < w.threads; ++i) {
        const Fiber& f = w.fibers[i];
        at_barrier += f.state == State::barrier;
        in_warp += f.state == State::warp;
        in_condition += f.state == State::condition;
        done += f.state == State::done;
        if (f.state != State::done && !waiting) waiting = &f;
    }
    const auto first = [&](State state) {
        return std::find_if(&w.fibers[0], &w.fibers[0] + w.threads, [&](const Fiber& f) { return f.state == state; });
    };
    char text[400];
    if (in_condition) {
        waiting = first(State::condition);
        snprintf(text, sizeof text,
                 ": %u of %u threads wait for %s; %u wait at other barriers, %u in a warp operation, %u have ended",
                 in_condition, w.threads, waiting->condition->what().c_str(), at_barrier, in_warp, done);
    } else if (at_barrier) {
        const unsigned id = first(State::barrier)->barrier_id;
        char place[200];
        if (w.barrier_file[id])
            snprintf(place, sizeof place, "the barrier of %s:%d", w.barrier_file[id], w.barrier_line[id]);
        else
            snprintf(place, sizeof place, "named barrier %u for %u threads", id, w.wanted[id]);
        snprintf(text, sizeof text, ": %u of %u threads wait at %s, %u in a warp operation, %u have ended", at_barrier,
                 w.threads, place, in_warp, done);
    } else {
        snprintf(text, sizeof text, ": %u of %u threads wait in %s for lanes that do not come (%u threads have ended)",
                 in_warp, w.threads, waiting->warp->name, done);
    }
    w.error = w.where(waiting) + text;
}

/// Whether the block ended without error.
bool run_block(Worker& w, dim3 block, dim3 grid, unsigned shared_bytes, unsigned schedule) {
    // Shared memory ends at the guard page, as aligned as kernels may ask for, and holds poison.
    const size_t align = w.shared_align();
    unsigned char* shared = w.shared + w.shared_room - (shared_bytes + align - 1) / align * align;
    std::memset(shared - Worker::MARGIN, 0xFF, w.shared + w.shared_room - shared + Worker::MARGIN);
    w.shared_start = shared;
    w.shared_bytes = shared_bytes;
    std::fill(std::begin(w.arrived), std::end(w.arrived), 0u);
    for (WarpOp& op : w.warps) op = WarpOp{};
    w.async.begin(shared, shared_bytes, w.threads);
    std::vector<unsigned> order(w.threads);
    for (unsigned i = 0; i < w.threads; ++i) {
        Fiber& f = w.fibers[i];
        f.thread_index = {i, 0, 0};
        f.block_index = block;
        f.block_dim = {w.threads, 1, 1};
        f.grid_dim = grid;
        f.lane = i % 32;
        f.warp = &w.warps[i / 32];
        f.shared = shared;
        f.state = State::ready;
        f.generation = 0;
        f.group = 0;
        f.copies.clear();
#ifdef DCSIM_ASAN
        __asan_unpoison_memory_region(f.stack, STACK);  // a fiber that ended in a fault left its frames there
#endif
        f.context.start(f.stack, STACK, fiber_main);
        order[i] = schedule == 1 ? w.threads - 1 - i : i;
    }
    std::minstd_rand random(schedule * 2654435761u + block.x * 40503u + block.y * 977u + block.z + 1);
    w.running = true;
    if (sigsetjmp(w.escape, 1)) {
        w.running = false;
        current = nullptr;
        return false;
    }
    for (;;) {
        if (schedule > 1) std::shuffle(order.begin(), order.end(), random);
        bool ran = false, alive = false;
        for (unsigned i : order) {
            Fiber& f = w.fibers[i];
            if (f.state == State::warp && f.warp->generation != f.generation) f.state = State::ready;
            if (f.state == State::condition && f.condition->holds()) f.state = State::ready;
            if (f.state == State::ready) {
                to_fiber(f);
                ran = true;
                if (!w.error.empty() || !w.surroundings_hold(&f)) break;
            }
            alive |= f.state != State::done;
        }
        if (!alive || !w.error.empty()) break;
        if (!ran && !w.async.advance()) {
            stuck(w);
            break;
        }
    }
    if (w.error.empty()) {
        const std::string left = w.async.left_over();
        if (!left.empty()) w.error = w.where(&w.fibers[0]) + ": " + left;
    }
    w.running = false;
    return w.error.empty();
}

// ---- The table of kernels ---------------------------------------------------------------------

struct Entry {
    const char* name;
    unsigned param_bytes, threads, shared;
    void (*entry)(const void*);
};

std::vector<Entry>& table() {
    static std::vector<Entry> entries;
    return entries;
}

std::atomic<unsigned long long> mma_flops{0};

}  // namespace

thread_local Thread* current = nullptr;

void fail(const char* format, ...) {
    Worker& w = *worker;
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    w.error = w.where(current) + ": " + text;
    self()->state = State::done;
    to_scheduler();  // which sees the error and resumes nobody
    std::abort();
}

namespace {

/// One more thread is at barrier `id`; whether it is the last, which sets the others free.
bool arrive_at(unsigned id, unsigned& count) {
    Worker& w = *worker;
    if (id >= BARRIERS) fail("barrier %u: there are %u", id, BARRIERS);
    if (!count) count = w.threads;
    if (count % 32 || count > w.threads) fail("barrier %u for %u threads; expected a multiple of 32 up to %u", id, count, w.threads);
    if (w.arrived[id] && w.wanted[id] != count)
        fail("is at barrier %u for %u threads while others are there for %u", id, count, w.wanted[id]);
    w.wanted[id] = count;
    if (++w.arrived[id] < count) return false;
    w.arrived[id] = 0;
    for (unsigned i = 0; i < w.threads; ++i) {
        Fiber& o = w.fibers[i];
        if (o.state == State::barrier && o.barrier_id == id) o.state = State::ready;
    }
    return true;
}

}  // namespace

void barrier(unsigned id, unsigned count, const char* file, int line) {
    Worker& w = *worker;
    Fiber* f = self();
    // Without a place it is a named barrier, at which threads may be that took different ways.
    if (file && w.arrived[id] && (w.barrier_line[id] != line || std::strcmp(w.barrier_file[id], file)))
        fail("waits at the barrier of %s:%d while others wait at that of %s:%d", file, line, w.barrier_file[id],
             w.barrier_line[id]);
    if (id < BARRIERS) {
        w.barrier_file[id] = file;
        w.barrier_line[id] = line;
    }
    f->barrier_id = id;
    // The last to arrive does not run on first by right: its turn ends here too.
    f->state = arrive_at(id, count) ? State::ready : State::barrier;
    to_scheduler();
}

void barrier_arrive(unsigned id, unsigned count) { arrive_at(id, count); }

void wait_until(const Condition& condition) {
    Fiber* f = self();
    f->condition = &condition;
    f->state = State::condition;
    to_scheduler();
}

Async& async() { return worker->async; }

void meet(const char* name, unsigned mask, const void* in, void* out, void (*run)(WarpOp&)) {
    Fiber* f = self();
    WarpOp& op = *f->warp;
    const unsigned bit = 1u << f->lane;
    if (!(mask & bit)) fail("%s with mask %08x, which leaves out the calling lane %u", name, mask, f->lane);
    if (!op.arrived) {
        op.name = name;
        op.mask = mask;
    } else if ((op.name != name && std::strcmp(op.name, name)) || op.mask != mask) {
        fail("%s with mask %08x while lanes of the warp wait in %s with mask %08x", name, mask, op.name, op.mask);
    }
    op.in[f->lane] = in;
    op.out[f->lane] = out;
    op.arrived |= bit;
    if (op.arrived == op.mask) {
        run(op);
        op.arrived = 0;
        ++op.generation;
        return;
    }
    f->generation = op.generation;
    f->state = State::warp;
    to_scheduler();
}

void copy_async(void* to, const void* from, unsigned size, unsigned valid) {
    check_aligned(to, size, "asynchronous copy to shared memory");
    if (valid) check_aligned(from, size, "asynchronous copy from global memory");
    Fiber* f = self();
    const unsigned char* shared_end = f->shared + worker->shared_bytes;
    const unsigned char* t = static_cast<unsigned char*>(to);
    if (t < f->shared || t + size > shared_end)
        fail("asynchronous copy to %p, which is not within the block's shared memory", to);
    PendingCopy copy{to, {}, size, f->group};
    std::memcpy(copy.bytes, from, valid);
    std::memset(to, 0xFF, size);  // whoever reads before the wait reads poison
    f->copies.push_back(copy);
}

void copy_async_commit() { ++self()->group; }

void copy_async_wait(unsigned keep) {
    Fiber* f = self();
    // Groups 0..group-1 are committed; all but the newest `keep` of them must have landed.
    const unsigned landed = f->group > keep ? f->group - keep : 0;
    auto waiting = std::stable_partition(f->copies.begin(), f->copies.end(),
                                         [&](const PendingCopy& c) { return c.group < landed; });
    for (auto c = f->copies.begin(); c != waiting; ++c) std::memcpy(c->to, c->bytes, c->size);
    f->copies.erase(f->copies.begin(), waiting);
}

void count_mma(unsigned long long flops) { mma_flops.fetch_add(flops, std::memory_order_relaxed); }

Registration::Registration(const char* name, unsigned param_bytes, unsigned threads, unsigned shared,
                           void (*entry)(const void*)) {
    table().push_back({name, param_bytes, threads, shared, entry});
}

}  // namespace dcsim

using namespace dcsim;

// ---- What the host calls ----------------------------------------------------------------------

extern "C" {

struct dcsim_kernel {
    const char* name;
    uint32_t param_bytes, threads, shared_bytes;
};

/// Number of kernels; `out`, if not null, has room for that many.
size_t dcsim_kernels(dcsim_kernel* out) {
    const auto& all = table();
    if (out)
        for (size_t i = 0; i < all.size(); ++i) out[i] = {all[i].name, all[i].param_bytes, all[i].threads, all[i].shared};
    return all.size();
}

/// Multiply-adds of tensor-core instructions since the last call, times two.
unsigned long long dcsim_take_mma_flops() { return mma_flops.exchange(0); }

/// Runs a kernel to its end. `schedule` 0: threads take turns in order, 1: in reverse, more: shuffled by
/// this seed. `workers` OS threads share the blocks. 0, or 1 with a sentence in `error`.
int dcsim_launch(const char* name, const uint32_t grid[3], const void* params, uint32_t param_bytes,
                 uint32_t schedule, uint32_t workers, char* error, size_t error_room) {
    const auto& all = table();
    auto k = std::find_if(all.begin(), all.end(), [&](const Entry& e) { return !std::strcmp(e.name, name); });
    auto refuse = [&](const std::string& text) {
        snprintf(error, error_room, "%s", text.c_str());
        return 1;
    };
    if (k == all.end()) return refuse(std::string("there is no kernel ") + name);
    if (k->param_bytes != param_bytes)
        return refuse(std::string(name) + ": takes " + std::to_string(k->param_bytes) + " bytes of parameters, got " +
                      std::to_string(param_bytes));
    if (k->threads == 0 || k->threads > MAX_THREADS || k->threads % 32 || k->shared > (227u << 10))
        return refuse(std::string(name) + ": no GPU runs a block of " + std::to_string(k->threads) + " threads with " +
                      std::to_string(k->shared) + " bytes of shared memory");
    if (!grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535)
        return refuse(std::string(name) + ": a grid has 1 to 2^31-1 × 65535 × 65535 blocks");
    install_handlers();
    // Parameters are read as a struct: as aligned as any field may ask for, which is a tensor map's 64 bytes.
    std::vector<TensorMap> aligned((param_bytes + sizeof(TensorMap) - 1) / sizeof(TensorMap));
    if (param_bytes) std::memcpy(aligned.data(), params, param_bytes);
    params = aligned.data();
    const uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
    std::atomic<uint64_t> next{0};
    std::mutex lock;
    std::string first_error;
    auto work = [&] {
        if (!worker) worker = std::make_unique<Worker>();
        Worker& w = *worker;
        w.error.clear();
        w.threads = k->threads;
        w.entry = k->entry;
        w.params = params;
        w.param_bytes = param_bytes;
        w.kernel = name;
        for (uint64_t i; (i = next.fetch_add(1)) < blocks;) {
            const uint64_t at = schedule == 1 ? blocks - 1 - i : i;
            const dim3 block{unsigned(at % grid[0]), unsigned(at / grid[0] % grid[1]),
                             unsigned(at / grid[0] / grid[1])};
            if (!run_block(w, block, {grid[0], grid[1], grid[2]}, k->shared, schedule)) {
                std::lock_guard<std::mutex> held(lock);
                if (first_error.empty()) first_error = w.error;
                next = blocks;
                break;
            }
        }
    };
    const uint64_t n = std::min<uint64_t>(std::max(workers, 1u), blocks);
    if (n == 1) {
        work();
    } else {
        std::vector<std::thread> threads;
        for (uint64_t i = 0; i < n; ++i) threads.emplace_back(work);
        for (std::thread& t : threads) t.join();
    }
    return first_error.empty() ? 0 : refuse(first_error);
}

}  // extern "C"
