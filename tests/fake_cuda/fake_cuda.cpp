// A stand-in for the NVIDIA driver (libcuda.so.1): device memory is host memory, and kernels run in the
// simulator of the process that loads this. It lets tests run all of src/device/cuda/ without a GPU, and
// plays the faults of real machines (FAKE_CUDA=old, none, driver, full, …; FAKE_CUDA_MIB: its memory).
//
// Only what the program calls is here. Streams run what they are given at once; capturing collects launches.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
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
    NOT_FOUND = 500,
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
};
struct Graph {
    std::vector<Work> work;
};
struct Stream {
    bool capturing = false;
    Graph* graph = nullptr;
};

Launch launch_in_simulator = nullptr;
EncodeTensorMap encode_for_simulator = nullptr;
std::vector<Function> functions;
std::map<uint64_t, size_t> allocations;
size_t used = 0;
unsigned graph_launches = 0;
std::mutex lock;

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

Result run(const Work& w) {
    char error[1024];
    alignas(64) char params[4096];  // as tensor maps among the parameters need it
    if (w.params.size() > sizeof params) return INVALID_VALUE;
    std::memcpy(params, w.params.data(), w.params.size());
    if (launch_in_simulator(w.function->kernel.name, w.grid, params, uint32_t(w.params.size()), 0, 2, error,
                            sizeof error)) {
        std::fprintf(stderr, "fake driver: %s\n", error);
        return LAUNCH_FAILED;
    }
    return SUCCESS;
}

bool inside(uint64_t p, size_t n) {
    auto it = allocations.upper_bound(p);
    if (it == allocations.begin()) return false;
    --it;
    return p + n <= it->first + it->second;
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
Result cuStreamCreate(void** stream, unsigned) { return *stream = new Stream, SUCCESS; }
Result cuStreamDestroy_v2(void* stream) { return delete static_cast<Stream*>(stream), SUCCESS; }
Result cuStreamSynchronize(void* stream) {
    if (lost) return ILLEGAL_ADDRESS;
    return static_cast<Stream*>(stream)->capturing ? STREAM_CAPTURE_UNSUPPORTED : SUCCESS;
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
    std::lock_guard<std::mutex> held(lock);
    if (used + bytes > capacity()) return OUT_OF_MEMORY;
    void* p = nullptr;
    if (posix_memalign(&p, 256, bytes)) return OUT_OF_MEMORY;
    std::memset(p, 0xFF, bytes);
    *address = reinterpret_cast<uint64_t>(p);
    allocations[*address] = bytes;
    used += bytes;
    return SUCCESS;
}
Result cuMemFree_v2(uint64_t address) {
    std::lock_guard<std::mutex> held(lock);
    auto it = allocations.find(address);
    if (it == allocations.end()) return INVALID_VALUE;
    used -= it->second;
    allocations.erase(it);
    std::free(reinterpret_cast<void*>(address));
    return SUCCESS;
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
Result cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    if (static_cast<Stream*>(stream)->capturing) return STREAM_CAPTURE_UNSUPPORTED;
    std::lock_guard<std::mutex> held(lock);
    if (!inside(to, bytes)) return INVALID_VALUE;
    std::memcpy(reinterpret_cast<void*>(to), from, bytes);
    return SUCCESS;
}
Result cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    if (static_cast<Stream*>(stream)->capturing) return STREAM_CAPTURE_UNSUPPORTED;
    std::lock_guard<std::mutex> held(lock);
    if (!inside(from, bytes)) return INVALID_VALUE;
    std::memcpy(to, reinterpret_cast<void*>(from), bytes);
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
    Work work{function, {gx, gy, gz}, std::string(static_cast<char*>(params[0]), function->kernel.param_bytes)};
    auto* s = static_cast<Stream*>(stream);
    if (!s->capturing) return run(work);
    s->graph->work.push_back(work);
    return SUCCESS;
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
    *exec = new Graph(*static_cast<Graph*>(graph));
    return SUCCESS;
}
Result cuGraphDestroy(void* graph) { return delete static_cast<Graph*>(graph), SUCCESS; }
Result cuGraphExecDestroy(void* exec) { return delete static_cast<Graph*>(exec), SUCCESS; }
Result cuGraphLaunch(void* exec, void*) {
    if (lost) return ILLEGAL_ADDRESS;
    if (++graph_launches == 2 && plays("broken kernel")) return lost = true, SUCCESS;  // told by the next wait
    for (const Work& w : static_cast<Graph*>(exec)->work)
        if (Result r = run(w)) return r;
    return SUCCESS;
}

}  // extern "C"
