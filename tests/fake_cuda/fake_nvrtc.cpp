// A stand-in for NVRTC (libnvrtc.so): what it makes of a program is a text that says what it was given, so
// that tests of src/device/cuda/first_use.rs see what was compiled, how, and how often.
//
// Tests load it by a path of their own, so that each has its own counters.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <thread>

namespace {

using Result = int;
enum : Result { SUCCESS = 0, INVALID_PROGRAM = 4, COMPILATION = 6 };

struct Program {
    std::string name, source, log, image;
    std::map<std::string, std::string> headers;
};

std::atomic<unsigned> compiled{0};
std::atomic<int> minor_version{4};
std::string refused;  // the family that does not compile
int archs[] = {75, 80, 86, 89, 90};

Result copy(const std::string& text, void* to) {
    std::memcpy(to, text.data(), text.size());
    return SUCCESS;
}

}  // namespace

extern "C" {

/// Programs compiled so far, successfully or not.
unsigned fake_nvrtc_compiled() { return compiled; }
/// The version from here on is 12.`minor`.
void fake_nvrtc_set_minor(int minor) { minor_version = minor; }
/// This family does not compile from here on; none, if empty.
void fake_nvrtc_refuse(const char* family) { refused = family; }

Result nvrtcVersion(int* major, int* minor) {
    *major = 12;
    *minor = minor_version;
    return SUCCESS;
}
const char* nvrtcGetErrorString(Result r) {
    return r == COMPILATION ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR_INVALID_PROGRAM";
}
Result nvrtcGetNumSupportedArchs(int* n) {
    *n = int(std::end(archs) - std::begin(archs));
    return SUCCESS;
}
Result nvrtcGetSupportedArchs(int* out) {
    std::copy(std::begin(archs), std::end(archs), out);
    return SUCCESS;
}
Result nvrtcCreateProgram(void** program, const char* source, const char* name, int headers, const char* const* texts,
                          const char* const* names) {
    auto* p = new Program{name, source, "", "", {}};
    for (int i = 0; i < headers; ++i) p->headers[names[i]] = texts[i];
    *program = p;
    return SUCCESS;
}
Result nvrtcCompileProgram(void* program, int count, const char* const* options) {
    auto* p = static_cast<Program*>(program);
    ++compiled;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // so that processes that start together meet
    if (!refused.empty() && p->name == "cuda/" + refused + ".cu") {
        p->log = p->name + "(7): error: expected a declaration\n1 error detected\n";
        return COMPILATION;
    }
    if (!p->headers.count("stdint.h")) {
        p->log = "cannot open source file \"stdint.h\"\n";
        return COMPILATION;
    }
    p->image = p->name;
    for (int i = 0; i < count; ++i) p->image += std::string(" ") + options[i];
    p->image += " " + std::to_string(std::hash<std::string>()(p->source));
    return SUCCESS;
}
Result nvrtcGetProgramLogSize(void* program, size_t* bytes) {
    return *bytes = static_cast<Program*>(program)->log.size() + 1, SUCCESS;
}
Result nvrtcGetProgramLog(void* program, char* to) {
    std::strcpy(to, static_cast<Program*>(program)->log.c_str());
    return SUCCESS;
}
Result nvrtcGetCUBINSize(void* program, size_t* bytes) {
    return *bytes = static_cast<Program*>(program)->image.size(), SUCCESS;
}
Result nvrtcGetCUBIN(void* program, char* to) { return copy(static_cast<Program*>(program)->image, to); }
Result nvrtcGetPTXSize(void* program, size_t* bytes) { return nvrtcGetCUBINSize(program, bytes); }
Result nvrtcGetPTX(void* program, char* to) { return copy(static_cast<Program*>(program)->image, to); }
Result nvrtcDestroyProgram(void** program) {
    if (!*program) return INVALID_PROGRAM;
    delete static_cast<Program*>(*program);
    return *program = nullptr, SUCCESS;
}

}  // extern "C"
