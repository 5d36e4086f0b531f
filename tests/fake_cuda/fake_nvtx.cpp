// A stand-in for a profiler: NVTX loads it by NVTX_INJECTION64_PATH, and it writes the ranges of every thread
// to the file FAKE_NVTX_LOG, a line a range when it begins: "depth name". "unbalanced" means that a range
// ended that had not begun.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace {

// Of nvtxDetail/nvtxTypes.h.
enum { ETID_CALLBACKS = 1, MODULE_CORE = 1, RANGE_PUSH_W = 10, RANGE_POP = 11 };
using Function = void (*)();
struct Callbacks {
    size_t struct_size;
    int (*get_module_function_table)(int module, Function*** table, unsigned* size);
};

thread_local int depth = 0;
std::mutex lock;

void write(int at, const wchar_t* name) {
    std::lock_guard<std::mutex> held(lock);
    static std::FILE* file = std::fopen(std::getenv("FAKE_NVTX_LOG"), "w");
    std::fprintf(file, "%d %ls\n", at, name);
    std::fflush(file);
}

int push(const wchar_t* name) {
    write(depth, name);
    return depth++;
}

int pop() {
    if (depth == 0) write(0, L"unbalanced");
    return --depth;
}

}  // namespace

extern "C" int InitializeInjectionNvtx2(const void* (*get_export_table)(uint32_t)) {
    auto* callbacks = static_cast<const Callbacks*>(get_export_table(ETID_CALLBACKS));
    Function** table = nullptr;
    unsigned size = 0;
    if (!callbacks || !callbacks->get_module_function_table(MODULE_CORE, &table, &size) || size <= RANGE_POP) return 0;
    *table[RANGE_PUSH_W] = reinterpret_cast<Function>(push);
    *table[RANGE_POP] = reinterpret_cast<Function>(pop);
    return 1;
}
