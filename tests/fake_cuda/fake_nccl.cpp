// A stand-in for NCCL (libnccl.so.2): the members are processes that exchange their numbers through files in the
// folder FAKE_NCCL. Calls do not block, as the program asks for; sums are done in the stream's turn, and not before
// all members have come to theirs.
#include <fcntl.h>
#include <unistd.h>

#include <memory>

#include "library.h"

namespace {

enum Status { SUCCESS = 0, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, IN_PROGRESS = 7 };
constexpr int NOT_READY = 600;  // of the driver
constexpr int FLOAT32 = 7, SUM = 0;

struct Config {
    size_t size;
    unsigned magic, version;
    int blocking;
};
struct Id {
    char internal[128];
};
struct Comm {
    std::string base;
    int rank, world;
    unsigned operations = 0;
    bool aborted = false;

    std::string file(const std::string& what, int rank) const {
        return base + "-" + what + "-" + std::to_string(rank);
    }
    bool joined() const {
        for (int r = 0; r < world; ++r)
            if (access(file("join", r).c_str(), F_OK)) return false;
        return true;
    }
};

/// A file that appears with all it holds.
void leave(const std::string& path, const void* data, size_t bytes) {
    const std::string part = path + ".part";
    FILE* f = std::fopen(part.c_str(), "wb");
    std::fwrite(data, 1, bytes, f);
    std::fclose(f);
    std::rename(part.c_str(), path.c_str());
}
bool take(const std::string& path, void* data, size_t bytes) {
    FILE* f = std::fopen(path.c_str(), "rb");
    if (!f) return false;
    const size_t got = std::fread(data, 1, bytes, f);
    std::fclose(f);
    // Members that give other lengths would hang, or worse, in the real library.
    if (got != bytes) std::fprintf(stderr, "fake NCCL: members give other lengths\n"), std::abort();
    return true;
}

/// One sum or broadcast, as it travels to the device.
struct Call {
    Comm* comm;
    unsigned number;
    bool sum;
    uint64_t at;
    size_t len;
};

int run(const void* p) {
    const Call& c = *static_cast<const Call*>(p);
    if (c.comm->aborted) return 0;
    const std::string what = std::to_string(c.number);
    const std::string mine = c.comm->file(what, c.comm->rank);
    float* at = reinterpret_cast<float*>(c.at);
    if (access(mine.c_str(), F_OK)) leave(mine, at, 4 * c.len);
    std::vector<std::vector<float>> all(c.comm->world, std::vector<float>(c.len));
    for (int r = 0; r < c.comm->world; ++r)
        if (!take(c.comm->file(what, r), all[r].data(), 4 * c.len)) return NOT_READY;
    for (size_t i = 0; i < c.len; ++i) {
        float v = all[0][i];
        for (int r = 1; c.sum && r < c.comm->world; ++r) v += all[r][i];
        at[i] = v;
    }
    return 0;
}

int queue(Comm* comm, bool sum, const void* from, void* to, size_t len, int type, void* stream) {
    if (from != to || type != FLOAT32 || !stream) return INVALID_ARGUMENT;
    if (!comm->joined() || comm->aborted) return INVALID_USAGE;
    const Call call{comm, comm->operations++, sum, reinterpret_cast<uint64_t>(to), len};
    if (fake::submit(stream, run, call, 10)) return INVALID_USAGE;
    return SUCCESS;
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) { return *version = int(fake::version("FAKE_NCCL_VERSION", 22203)), SUCCESS; }
const char* ncclGetErrorString(int status) {
    return status == INVALID_ARGUMENT ? "invalid argument" : status == INVALID_USAGE ? "invalid usage" : "another error";
}
int ncclGetUniqueId(Id* id) {
    std::memset(id, 0, sizeof *id);
    const int random = open("/dev/urandom", O_RDONLY);
    unsigned char bytes[16];
    if (read(random, bytes, sizeof bytes) != sizeof bytes) return INVALID_USAGE;
    close(random);
    for (int i = 0; i < 16; ++i) std::snprintf(id->internal + 2 * i, 3, "%02x", bytes[i]);
    id->internal[127] = char(0xff);  // all bytes count
    return SUCCESS;
}
int ncclCommInitRankConfig(void** comm, int world, Id id, int rank, Config* config) {
    if (config->magic != 0xcafebeef || config->size < sizeof(Config) || config->blocking != 0) return INVALID_ARGUMENT;
    if (rank < 0 || rank >= world || id.internal[127] != char(0xff)) return INVALID_ARGUMENT;
    auto* c = new Comm{std::string(std::getenv("FAKE_NCCL")) + "/" + id.internal, rank, world};
    leave(c->file("join", rank), "", 0);
    return *comm = c, IN_PROGRESS;
}
int ncclCommGetAsyncError(void* comm, int* status) {
    return *status = static_cast<Comm*>(comm)->joined() ? SUCCESS : IN_PROGRESS, SUCCESS;
}
/// Kept: the stream may still hold its calls.
int ncclCommAbort(void* comm) { return static_cast<Comm*>(comm)->aborted = true, SUCCESS; }
int ncclAllReduce(const void* from, void* to, size_t len, int type, int op, void* comm, void* stream) {
    if (op != SUM) return INVALID_ARGUMENT;
    return queue(static_cast<Comm*>(comm), true, from, to, len, type, stream);
}
int ncclBroadcast(const void* from, void* to, size_t len, int type, int root, void* comm, void* stream) {
    if (root != 0) return INVALID_ARGUMENT;
    return queue(static_cast<Comm*>(comm), false, from, to, len, type, stream);
}

}  // extern "C"
