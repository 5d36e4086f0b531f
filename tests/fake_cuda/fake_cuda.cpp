// A stand-in for the NVIDIA driver (libcuda.so.1): device memory is host memory, and kernels run in the
// simulator of the process that loads this. It lets tests run all of src/device/cuda/ without a GPU, and
// plays the faults of real machines (FAKE_CUDA=old, none, driver, full, …; FAKE_CUDA_MIB: its memory).
//
// Only what the program calls is here. What a stream is given is done as late as the program can tell: when it
// waits, asks or frees memory. So a host that changes page-locked bytes under a copy, or reads them too early,
// gets wrong numbers; and work of two streams on the same memory that no event orders is an error.
//
// Time is made up: a kernel takes FAKE_KERNEL_US microseconds (1000), a library's call what it says, a copy none.
// An event has the time of all that its stream was given before.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace {

using Result = int;
enum : Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    DEVICE_UNAVAILABLE = 46,
        NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    NO_BINARY_FOR_GPU = 209,
    UNSUPPORTED_PTX_VERSION = 222,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719,
    STREAM_CAPTURE_UNSUPPORTED = 900,
    DRIVER_MISMATCH = 803,
};

struct Kernel {
    const char* name;
    uint32_t param_bytes, threads, shared_bytes;
};
using Launch = int (*)(const char*, const uint32_t*, const void*, uint32_t, uint32_t, uint32_t, char*, size_t);
using Kernels = size_t (*)(Kernel*);
using EncodeTensorMap = void (*)(uint64_t*, uint64_t, uint32_t, uint32_t, const uint64_t*, const uint64_t*,
                                 const uint32_t*, uint32_t);

struct Function {
    Kernel kernel;
    uint32_t info[3];
    int dynamic_shared = 48 << 10;
};
struct Work {
    Function* function;
    uint32_t grid[3];
    std::string params;
    /// Of a library, in place of a kernel: given the parameters, 0 if all went well.
    int (*call)(const void*) = nullptr;
    double microseconds = 0;
};
struct Graph {
    std::vector<Work> work;
};
struct Stream;
/// How much of each stream's work is known to come before.
using Order = std::map<Stream*, uint64_t>;

struct Stream {
    bool capturing = false;
    Graph* graph = nullptr;
    /// Work that is not done yet; the last of it has the number `issued`.
    std::deque<std::function<Result()>> queue;
    uint64_t issued = 0;
    Order before;
    /// Microseconds of all of it.
    double us = 0;

    uint64_t done() const { return issued - queue.size(); }
};
struct Event {
    bool timed;
    Stream* stream = nullptr;
    uint64_t number = 0;
    Order before;
    double us = 0;
};
struct Allocation {
    size_t bytes;
    /// The last work of each stream that wrote to it (or may have), and that read it.
    Order written, read;
};

Launch launch_in_simulator = nullptr;
EncodeTensorMap encode_for_simulator = nullptr;
std::vector<Function> functions;
std::map<uint64_t, Allocation> allocations;
std::map<uint64_t, size_t> pinned;
size_t used = 0;
unsigned graph_launches = 0;
/// Microseconds of all streams.
double clock_us = 0;
/// Waits of the host for the device, allocations (and frees) of any memory, copies from or to other than
/// page-locked memory.
unsigned waits = 0, allocated = 0, pageable = 0;
/// Whatever the host has waited for comes before all that it asks for later.
Order waited;
std::recursive_mutex lock;
using Held = std::lock_guard<std::recursive_mutex>;
void* last_stream = nullptr;

bool plays(const char* fault) {
    const char* f = std::getenv("FAKE_CUDA");
    return f && !std::strcmp(f, fault);
}
int most_shared() { return (plays("hopper") ? 227 : 163) << 10; }
size_t capacity() {
    if (const char* mib = std::getenv("FAKE_CUDA_MIB")) return std::strtoull(mib, nullptr, 10) << 20;
    return plays("full") ? 1 << 20 : size_t(4) << 30;
}
/// A kernel has failed: everything is refused from then on, as a driver does.
bool lost = false;

double kernel_us() {
    const char* us = std::getenv("FAKE_KERNEL_US");
    return us ? std::atof(us) : 1000;
}

Result run(const Work& w) {
    if (w.call) {
        const int r = w.call(w.params.data());
        return r == NOT_READY ? NOT_READY : r ? LAUNCH_FAILED : SUCCESS;
    }
    char error[1024];
    alignas(64) char params[4096];  // as tensor maps among the parameters need it
    if (w.params.size() > sizeof params) return INVALID_VALUE;
    std::memcpy(params, w.params.data(), w.params.size());
    if (launch_in_simulator(w.function->kernel.name, w.grid, params, uint32_t(w.params.size()), 0, 1, error,
                            sizeof error)) {
        std::fprintf(stderr, "fake driver: %s\n", error);
        return LAUNCH_FAILED;
    }
    return SUCCESS;
}

Allocation* find(uint64_t p, size_t n) {
    auto it = allocations.upper_bound(p);
    if (it == allocations.begin()) return nullptr;
    --it;
    return p + n <= it->first + it->second.bytes ? &it->second : nullptr;
}
bool is_pinned(const void* p, size_t n) {
    const auto at = reinterpret_cast<uint64_t>(p);
    auto it = pinned.upper_bound(at);
    if (it == pinned.begin()) return false;
    --it;
    return at + n <= it->first + it->second;
}

void join(Order& to, const Order& from) {
    for (auto [stream, number] : from) to[stream] = std::max(to[stream], number);
}

/// Whether what the stream does next may touch the memory: all others' work on it must come before.
bool ordered(Stream* stream, Allocation& memory, bool write, const char* what) {
    const auto late = [&](const Order& work) {
        for (auto [other, number] : work)
            if (other != stream && number > stream->before[other]) return true;
        return false;
    };
    if (late(memory.written) || (write && late(memory.read))) {
        std::fprintf(stderr, "fake driver: %s on memory that another stream uses, and no event orders them\n", what);
        return false;
    }
    (write ? memory.written : memory.read)[stream] = stream->issued + 1;
    return true;
}
/// The same for whatever a kernel's parameters point into: it may write to all of it. A library's are its own
/// affair.
bool ordered(Stream* stream, const Work& w) {
    if (w.call) return true;
    for (size_t i = 0; i + 8 <= w.params.size(); i += 8) {
        uint64_t word;
        std::memcpy(&word, w.params.data() + i, 8);
        Allocation* memory = find(word, 1);
        if (memory && !ordered(stream, *memory, true, w.function->kernel.name)) return false;
    }
    return true;
}

void enqueue(Stream* s, std::function<Result()> work) {
    s->queue.push_back(std::move(work));
    join(s->before, waited);
    s->before[s] = ++s->issued;
}
/// Work that takes its time.
void enqueue(Stream* s, const Work& w, std::function<Result()> work) {
    s->us += w.microseconds;
    clock_us += w.microseconds;
    enqueue(s, std::move(work));
}
/// Gives a stream a kernel or a library's call, or puts it into the graph that is captured.
Result issue(Stream* s, const Work& work) {
    if (s->capturing) return s->graph->work.push_back(work), SUCCESS;
    join(s->before, waited);
    if (!ordered(s, work)) return LAUNCH_FAILED;
    enqueue(s, work, [work] { return run(work); });
    return SUCCESS;
}
/// Whether a stream that waits for another process is waited for. A question only asks.
bool patient = true;
/// Does a stream's work up to a number.
Result advance(Stream* s, uint64_t number) {
    while (s->done() < number) {
        if (lost) return s->queue.clear(), ILLEGAL_ADDRESS;
        const auto work = s->queue.front();
        const Result r = work();
        if (r == NOT_READY) {
            if (!patient) return r;
            usleep(1000);
            continue;
        }
        s->queue.pop_front();
        if (r) return r;
    }
    return SUCCESS;
}

std::vector<Stream*> streams;
Result advance_all() {
    for (Stream* s : streams)
        if (Result r = advance(s, s->issued)) return r;
    return SUCCESS;
}

/// Why a stream does not take anything but launches: it is captured, or the device is lost.
Result refused(void* stream) {
    return lost ? ILLEGAL_ADDRESS : static_cast<Stream*>(stream)->capturing ? STREAM_CAPTURE_UNSUPPORTED : SUCCESS;
}

}  // namespace

extern "C" {

/// The process that loads this library hands over its simulator.
void fake_cuda_install(Kernels kernels, Launch launch, EncodeTensorMap encode) {
    launch_in_simulator = launch;
    encode_for_simulator = encode;
    std::vector<Kernel> all(kernels(nullptr));
    kernels(all.data());
    for (const Kernel& k : all) {
        if (!std::strncmp(k.name, "fault_", 6)) continue;  // planted in the simulator for its own tests
        functions.push_back({k, {k.threads, k.shared_bytes, k.param_bytes}});
    }
}
/// Bytes that are allocated now.
size_t fake_cuda_used() { return used; }
/// Graphs started so far.
unsigned fake_cuda_graph_launches() { return graph_launches; }
/// Waits of the host so far, allocations and frees, and copies of pageable memory.
void fake_cuda_counts(unsigned counts[3]) { counts[0] = waits, counts[1] = allocated, counts[2] = pageable; }
/// Microseconds that all work so far took.
double fake_cuda_clock() { return clock_us; }
/// For the stand-ins of libraries: runs `call` on a copy of these bytes, in the stream's turn.
Result fake_cuda_submit(void* stream, int (*call)(const void*), const void* data, size_t bytes, double us) {
    Held held(lock);
    return issue(static_cast<Stream*>(stream),
                 {nullptr, {}, std::string(static_cast<const char*>(data), bytes), call, us});
}
/// The stream that the last graph was started on.
void* fake_cuda_last_stream() { return last_stream; }

Result cuInit(unsigned) {
    if (plays("none")) return NO_DEVICE;
    if (plays("driver")) return DRIVER_MISMATCH;
    return SUCCESS;
}
Result cuDriverGetVersion(int* version) { return *version = plays("behind") ? 12020 : 12040, SUCCESS; }
Result cuGetErrorName(Result r, const char** name) {
    *name = r == OUT_OF_MEMORY     ? "CUDA_ERROR_OUT_OF_MEMORY"
            : r == NO_DEVICE       ? "CUDA_ERROR_NO_DEVICE"
            : r == DRIVER_MISMATCH ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"
            : r == LAUNCH_FAILED   ? "CUDA_ERROR_LAUNCH_FAILED"
            : r == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
                                   : "CUDA_ERROR_OTHER";
    return SUCCESS;
}
Result cuGetErrorString(Result r, const char** text) {
    *text = r == OUT_OF_MEMORY     ? "out of memory"
            : r == DRIVER_MISMATCH ? "system has unsupported display driver / cuda driver combination"
            : r == LAUNCH_FAILED   ? "unspecified launch failure"
            : r == ILLEGAL_ADDRESS ? "an illegal memory access was encountered"
            : r == NO_BINARY_FOR_GPU       ? "no kernel image is available for execution on the device"
            : r == UNSUPPORTED_PTX_VERSION ? "the provided PTX was compiled with an unsupported toolchain."
                                   : "another error";
    return SUCCESS;
}
Result cuDeviceGetCount(int* n) { return *n = 1, SUCCESS; }
Result cuDeviceGet(int* device, int ordinal) {
    if (ordinal) return INVALID_DEVICE;
    return *device = 0, SUCCESS;
}
Result cuDeviceGetName(char* name, int room, int) {
    std::snprintf(name, size_t(room), "%s",
                  plays("old")      ? "Fake T4"
                  : plays("hopper") ? "Fake H100"
                  : plays("mig")    ? "Fake A100 MIG 1g.5gb"
                                    : "Fake A100");
    return SUCCESS;
}
Result cuDeviceGetAttribute(int* value, int which, int) {
    switch (which) {
        case 75: *value = plays("old") ? 7 : plays("hopper") ? 9 : 8; break;  // compute capability, major
        case 76: *value = plays("old") ? 5 : 0; break;  // minor
        case 16: *value = plays("hopper") ? 132 : 108; break;  // multiprocessors
        case 97: *value = most_shared(); break;                // of a block
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}
Result cuDevicePrimaryCtxRetain(void** context, int) {
    if (plays("taken")) return DEVICE_UNAVAILABLE;
    return *context = &functions, SUCCESS;
}
Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
Result cuCtxSetCurrent(void*) { return SUCCESS; }
Result cuCtxGetDevice(int* device) { return *device = 0, SUCCESS; }
Result cuStreamGetCtx(void*, void** context) { return *context = &functions, SUCCESS; }
Result cuStreamCreate(void** stream, unsigned) {
    Held held(lock);
    streams.push_back(new Stream);
    return *stream = streams.back(), SUCCESS;
}
Result cuStreamDestroy_v2(void* stream) {
    Held held(lock);
    auto* s = static_cast<Stream*>(stream);
    const Result r = advance(s, s->issued);
    streams.erase(std::find(streams.begin(), streams.end(), s));
    for (auto& [address, memory] : allocations) memory.written.erase(s), memory.read.erase(s);
    return delete s, r;
}
Result cuStreamSynchronize(void* stream) {
    if (Result r = refused(stream)) return r;
    Held held(lock);
    auto* s = static_cast<Stream*>(stream);
    ++waits;
    join(waited, s->before);
    return advance(s, s->issued);
}
Result cuStreamWaitEvent(void* stream, void* event, unsigned) {
    if (Result r = refused(stream)) return r;
    Held held(lock);
    auto* s = static_cast<Stream*>(stream);
    const Event e = *static_cast<Event*>(event);
    if (!e.stream) return SUCCESS;
    enqueue(s, [e] { return advance(e.stream, e.number); });
    join(s->before, e.before);
    return SUCCESS;
}

Result cuEventCreate(void** event, unsigned flags) {
    return *event = new Event{!(flags & 2)}, SUCCESS;  // 2: without times
}
Result cuEventDestroy_v2(void* event) { return delete static_cast<Event*>(event), SUCCESS; }
Result cuEventRecord(void* event, void* stream) {
    if (Result r = refused(stream)) return r;
    Held held(lock);
    auto* s = static_cast<Stream*>(stream);
    join(s->before, waited);
    auto* e = static_cast<Event*>(event);
    *e = {e->timed, s, s->issued, s->before, s->us};
    return SUCCESS;
}
/// Every question lets the device do one thing more.
Result cuEventQuery(void* event) {
    Held held(lock);
    if (lost) return ILLEGAL_ADDRESS;
    auto* e = static_cast<Event*>(event);
    if (e->stream && e->stream->done() < e->number) {
        patient = false;
        const Result r = advance(e->stream, e->stream->done() + 1);
        patient = true;
        return r ? r : NOT_READY;
    }
    join(waited, e->before);
    return SUCCESS;
}
Result cuEventSynchronize(void* event) {
    Held held(lock);
    if (lost) return ILLEGAL_ADDRESS;
    auto* e = static_cast<Event*>(event);
    if (!e->stream) return SUCCESS;
    ++waits;
    join(waited, e->before);
    return advance(e->stream, e->number);
}

Result cuEventElapsedTime(float* ms, void* from, void* to) {
    Held held(lock);
    const auto *a = static_cast<Event*>(from), *b = static_cast<Event*>(to);
    for (const Event* e : {a, b}) {
        if (!e->timed || !e->stream) return INVALID_HANDLE;
        if (e->stream->done() < e->number) return NOT_READY;
    }
    return *ms = float((b->us - a->us) / 1000), SUCCESS;
}

Result cuModuleLoadData(void** module, const void*) {
    if (plays("newer code")) return UNSUPPORTED_PTX_VERSION;
    if (plays("no code")) return NO_BINARY_FOR_GPU;
    return *module = &functions, SUCCESS;
}
Result cuModuleGetFunctionCount(unsigned* n, void*) { return *n = unsigned(functions.size()), SUCCESS; }
Result cuModuleEnumerateFunctions(void** out, unsigned n, void*) {
    for (unsigned i = 0; i < n; ++i) out[i] = &functions[i];
    return SUCCESS;
}
Result cuFuncGetName(const char** name, void* f) { return *name = static_cast<Function*>(f)->kernel.name, SUCCESS; }
Result cuModuleGetGlobal_v2(uint64_t* address, size_t* bytes, void*, const char* name) {
    for (Function& f : functions) {
        if (std::string(f.kernel.name) + "_info" == name) {
            *address = reinterpret_cast<uint64_t>(f.info);
            *bytes = sizeof f.info;
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}
Result cuFuncSetAttribute(void* f, int which, int value) {
    if (which != 8 || value > most_shared()) return INVALID_VALUE;  // 8: most dynamic shared memory
    static_cast<Function*>(f)->dynamic_shared = value;
    return SUCCESS;
}

Result cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    Held held(lock);
    ++allocated;
    if (used + bytes > capacity()) return OUT_OF_MEMORY;
    void* p = nullptr;
    if (posix_memalign(&p, 256, bytes)) return OUT_OF_MEMORY;
    std::memset(p, 0xFF, bytes);
    *address = reinterpret_cast<uint64_t>(p);
    allocations[*address] = {bytes, {}, {}};
    used += bytes;
    return SUCCESS;
}
Result cuMemFree_v2(uint64_t address) {
    Held held(lock);
    ++allocated;
    auto it = allocations.find(address);
    if (it == allocations.end()) return INVALID_VALUE;
    const Result r = advance_all();  // a driver waits for what uses the memory
    used -= it->second.bytes;
    allocations.erase(it);
    std::free(reinterpret_cast<void*>(address));
    return r;
}
Result cuTensorMapEncodeTiled(uint64_t* map, int type, uint32_t rank, void* address, const uint64_t* extents,
                              const uint64_t* strides, const uint32_t* box, const uint32_t* every, int interleave,
                              int swizzle, int, int fill) {
    const uint32_t element = type == 7 ? 4 : type == 6 || type == 9 ? 2 : 0;  // f32, f16, bf16
    if (!plays("hopper") || reinterpret_cast<uint64_t>(map) % 64 || !element || interleave || fill) return INVALID_VALUE;
    for (uint32_t i = 0; i < rank; ++i)
        if (every[i] != 1) return INVALID_VALUE;
    static const uint32_t SWIZZLES[] = {0, 32, 64, 128};
    encode_for_simulator(map, reinterpret_cast<uint64_t>(address), element, rank, extents, strides, box,
                         SWIZZLES[swizzle]);
    return SUCCESS;
}
Result cuMemGetInfo_v2(size_t* free, size_t* total) {
    *total = capacity();
    *free = capacity() - used;
    return SUCCESS;
}
Result cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    Held held(lock);
    ++allocated;
    if (posix_memalign(p, 4096, bytes)) return OUT_OF_MEMORY;
    pinned[reinterpret_cast<uint64_t>(*p)] = bytes;
    return SUCCESS;
}
Result cuMemFreeHost(void* p) {
    Held held(lock);
    ++allocated;
    if (!pinned.erase(reinterpret_cast<uint64_t>(p))) return INVALID_VALUE;
    for (Stream* s : streams) {
        if (s->queue.empty()) continue;
        std::fprintf(stderr, "fake driver: page-locked memory is freed while copies may use it\n");
        return LAUNCH_FAILED;
    }
    return std::free(p), SUCCESS;
}
Result cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    if (Result r = refused(stream)) return r;
    Held held(lock);
    auto* s = static_cast<Stream*>(stream);
    Allocation* memory = find(to, bytes);
    if (!memory) return INVALID_VALUE;
    join(s->before, waited);
    if (!ordered(s, *memory, true, "a copy from the host")) return LAUNCH_FAILED;
    if (is_pinned(from, bytes)) {
        enqueue(s, [=] { return std::memcpy(reinterpret_cast<void*>(to), from, bytes), SUCCESS; });
        return SUCCESS;
    }
    ++pageable;  // a driver takes a copy of its own first
    const std::string taken(static_cast<const char*>(from), bytes);
    enqueue(s, [=] { return std::memcpy(reinterpret_cast<void*>(to), taken.data(), bytes), SUCCESS; });
    return SUCCESS;
}
Result cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    if (Result r = refused(stream)) return r;
    Held held(lock);
    auto* s = static_cast<Stream*>(stream);
    Allocation* memory = find(from, bytes);
    if (!memory) return INVALID_VALUE;
    join(s->before, waited);
    if (!ordered(s, *memory, false, "a copy to the host")) return LAUNCH_FAILED;
    if (!is_pinned(to, bytes)) ++pageable;
    enqueue(s, [=] { return std::memcpy(to, reinterpret_cast<void*>(from), bytes), SUCCESS; });
    return SUCCESS;
}
Result cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) {
    std::memcpy(to, reinterpret_cast<void*>(from), bytes);
    return SUCCESS;
}

Result cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void* stream, void** params, void**) {
    auto* function = static_cast<Function*>(f);
    if (bx != function->kernel.threads || by != 1 || bz != 1 || shared != function->kernel.shared_bytes ||
        int(shared) > function->dynamic_shared)
        return INVALID_VALUE;
    Held held(lock);
    const std::string given(static_cast<char*>(params[0]), function->kernel.param_bytes);
    return issue(static_cast<Stream*>(stream), {function, {gx, gy, gz}, given, nullptr, kernel_us()});
}

Result cuStreamBeginCapture_v2(void* stream, int) {
    auto* s = static_cast<Stream*>(stream);
    s->capturing = true;
    s->graph = new Graph;
    return SUCCESS;
}
Result cuStreamEndCapture(void* stream, void** graph) {
    auto* s = static_cast<Stream*>(stream);
    s->capturing = false;
    *graph = s->graph;
    return SUCCESS;
}
Result cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
    *exec = new std::shared_ptr<const Graph>(new Graph(*static_cast<Graph*>(graph)));
    return SUCCESS;
}
Result cuGraphDestroy(void* graph) { return delete static_cast<Graph*>(graph), SUCCESS; }
Result cuGraphExecDestroy(void* exec) { return delete static_cast<std::shared_ptr<const Graph>*>(exec), SUCCESS; }
Result cuGraphLaunch(void* exec, void* stream) {
    if (Result r = refused(stream)) return r;
    Held held(lock);
    ++graph_launches;
    last_stream = stream;
    auto* s = static_cast<Stream*>(stream);
    const auto graph = *static_cast<std::shared_ptr<const Graph>*>(exec);
    join(s->before, waited);
    if (graph_launches == 2 && plays("broken kernel")) {
        enqueue(s, [] { return lost = true, ILLEGAL_ADDRESS; });  // told by whoever waits
        return SUCCESS;
    }
    for (const Work& w : graph->work)
        if (!ordered(s, w)) return LAUNCH_FAILED;
    for (const Work& w : graph->work) enqueue(s, w, [graph, &w] { return run(w); });
    return SUCCESS;
}

}  // extern "C"
