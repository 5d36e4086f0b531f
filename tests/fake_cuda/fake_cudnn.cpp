// A stand-in for cuDNN's graph API: a convolution or its gradient, and what is done to the result element for
// element, by plain loops in double. Descriptors keep the attributes that they are given; what the real library
// asks for must be there when they are finished.
#include <map>
#include <memory>

#include "library.h"

namespace {

enum Status { SUCCESS = 0, BAD_PARAM = 2000, NOT_SUPPORTED = 3000, EXECUTION_FAILED = 5000 };
enum Kind { POINTWISE, CONVOLUTION, ENGINE, CONFIG, HEURISTIC, PLAN, FORWARD = 10, BACKWARD_DATA = 12, MAP = 13,
            GRAPH = 15, PACK, TENSOR };

struct Descriptor {
    int kind;
    bool finished = false;
    std::map<int, std::string> attributes;
    int64_t index = -1;                       // of an engine, a configuration or a plan: which algorithm
    const Descriptor* graph = nullptr;        // of a configuration or a plan

    bool has(int name) const { return attributes.count(name); }
    template <class T>
    std::vector<T> all(int name) const {
        auto it = attributes.find(name);
        if (it == attributes.end()) return {};
        std::vector<T> values(it->second.size() / sizeof(T));
        std::memcpy(values.data(), it->second.data(), it->second.size());
        return values;
    }
    template <class T>
    T one(int name, T usual = {}) const {
        const auto values = all<T>(name);
        return values.empty() ? usual : values[0];
    }
    const Descriptor* part(int name) const { return one<const Descriptor*>(name, nullptr); }
};
Descriptor* as(void* p) { return static_cast<Descriptor*>(p); }

/// Bytes of a value, by CUDNN_TYPE_*.
size_t bytes_of(int type) {
    switch (type) {
        case 2: return 1;
        case 0: case 3: case 5: case 6: case 15: return 8;
        default: return 4;
    }
}

/// Attributes that must be set before a descriptor is finished.
std::vector<int> needed(int kind) {
    switch (kind) {
        case POINTWISE: return {0, 1};
        case CONVOLUTION: return {100, 101, 102, 103, 104, 105, 106};
        case HEURISTIC: return {200, 201};
        case PLAN: return {400, 401};
        case FORWARD: return {700, 701, 702, 703, 704, 705};
        case BACKWARD_DATA: return {706, 707, 708, 709, 710, 711};
        case MAP: return {750, 751, 753};
        case GRAPH: return {800, 801};
        case PACK: return {1000, 1001, 1003};
        case TENSOR: return {900, 901, 902, 903, 906};
        default: return {};
    }
}

fake::Type type_of(int t) { return t == 0 ? fake::F32 : t == 2 ? fake::F16 : fake::BF16; }

/// A tensor while a graph runs: in memory, or between two operations.
struct Values {
    const Descriptor* d;
    uint64_t base;
    std::vector<double> held;
    std::vector<int64_t> extents, strides;

    int64_t at(const int64_t (&i)[4]) const {
        int64_t p = 0;
        for (int k = 0; k < 4; ++k) p += extents[k] == 1 ? 0 : i[k] * strides[k];
        return p;
    }
    double get(const int64_t (&i)[4]) const { return held.empty() ? fake::load(type(), base, at(i)) : held[at(i)]; }
    void set(const int64_t (&i)[4], double x) {
        if (held.empty()) fake::store(type(), base, at(i), x);
        else held[at(i)] = float(x);
    }
    fake::Type type() const { return type_of(d->one<int>(901)); }
};

struct Call {
    const Descriptor* graph;
    const Descriptor* pack;
};

template <class F>
void each(const std::vector<int64_t>& extents, F f) {
    for (int64_t a = 0; a < extents[0]; ++a)
        for (int64_t b = 0; b < extents[1]; ++b)
            for (int64_t c = 0; c < extents[2]; ++c)
                for (int64_t e = 0; e < extents[3]; ++e) f({a, b, c, e});
}

double function(const Descriptor& f, double x, double b) {
    switch (f.one<int>(0)) {
        case 0: return x + b;
        case 100: return x > 0 ? x : f.one<double>(5, 0) * x;
        case 101: return std::tanh(x);
        case 102: return 1 / (1 + std::exp(-x));
        case 104: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
        case 106: return x / (1 + std::exp(-x));
        case 107: return fake::gelu_tanh(x);
        default: std::abort();
    }
}

int run(const void* p) {
    const Call& call = *static_cast<const Call*>(p);
    const auto ids = call.pack->all<int64_t>(1000);
    const auto pointers = call.pack->all<uint64_t>(1001);
    std::map<int64_t, std::unique_ptr<Values>> tensors;
    auto tensor = [&](const Descriptor* d) -> Values& {
        const int64_t id = d->one<int64_t>(906);
        auto& slot = tensors[id];
        if (slot) return *slot;
        slot.reset(new Values{d, 0, {}, d->all<int64_t>(902), d->all<int64_t>(903)});
        if (d->one<char>(907)) {
            int64_t span = 1;
            for (int k = 0; k < 4; ++k) span += (slot->extents[k] - 1) * slot->strides[k];
            slot->held.assign(size_t(span), NAN);
        }
        for (size_t k = 0; k < ids.size(); ++k)
            if (ids[k] == id) slot->base = pointers[k];
        if (slot->held.empty() && (!slot->base || slot->base % uint64_t(d->one<int64_t>(900)))) std::abort();
        return *slot;
    };
    for (const Descriptor* op : call.graph->all<const Descriptor*>(801)) {
        if (op->kind == MAP) {
            const Descriptor* b = op->part(752);
            Values &x = tensor(op->part(751)), &y = tensor(op->part(753));
            each(y.extents, [&](const int64_t (&i)[4]) {
                y.set(i, function(*op->part(750), x.get(i), b ? tensor(b).get(i) : 0));
            });
            continue;
        }
        const bool back = op->kind == BACKWARD_DATA;
        const Descriptor* conv = op->part(back ? 708 : 702);
        Values &w = tensor(op->part(back ? 709 : 703)), &x = tensor(op->part(back ? 710 : 704));
        Values& y = tensor(op->part(back ? 711 : 705));
        const auto dilation = conv->all<int64_t>(102), stride = conv->all<int64_t>(103), pad = conv->all<int64_t>(105);
        const int64_t cg = w.extents[1], groups = x.extents[1] / cg, ng = y.extents[1] / groups;
        std::vector<double> sums(size_t(x.extents[0] * x.extents[1] * x.extents[2] * x.extents[3]), 0.0);
        each(y.extents, [&](const int64_t (&o)[4]) {
            double sum = 0;
            for (int64_t c = 0; c < cg; ++c)
                for (int64_t r = 0; r < w.extents[2]; ++r)
                    for (int64_t s = 0; s < w.extents[3]; ++s) {
                        const int64_t i[4] = {o[0], o[1] / ng * cg + c, o[2] * stride[0] + r * dilation[0] - pad[0],
                                              o[3] * stride[1] + s * dilation[1] - pad[1]};
                        if (i[2] < 0 || i[3] < 0 || i[2] >= x.extents[2] || i[3] >= x.extents[3]) continue;
                        const int64_t k[4] = {o[1], c, r, s};
                        if (!back) sum += x.get(i) * w.get(k);
                        else
                            sums[size_t(((i[0] * x.extents[1] + i[1]) * x.extents[2] + i[2]) * x.extents[3] + i[3])] +=
                                y.get(o) * w.get(k);
                    }
            if (!back) y.set(o, sum);
        });
        size_t next = 0;
        if (back) each(x.extents, [&](const int64_t (&i)[4]) { x.set(i, sums[next++]); });
    }
    return 0;
}

void* stream = nullptr;
unsigned searches = 0;

}  // namespace

extern "C" {

/// How often the heuristic was asked.
unsigned fake_cudnn_searches() { return searches; }

size_t cudnnGetVersion() { return fake::version("FAKE_CUDNN_VERSION", 90201); }
int cudnnCreate(void** handle) { return *handle = &stream, SUCCESS; }
int cudnnSetStream(void*, void* s) { return stream = s, SUCCESS; }

int cudnnBackendCreateDescriptor(int kind, void** d) {
    *d = new Descriptor{kind};
    return SUCCESS;
}
/// The stream may not have come to a call that was described with it: kept.
int cudnnBackendDestroyDescriptor(void* d) {
    static std::vector<std::unique_ptr<Descriptor>> kept;
    return kept.emplace_back(as(d)), SUCCESS;
}

int cudnnBackendSetAttribute(void* d, int name, int type, int64_t count, const void* values) {
    if (as(d)->finished) return BAD_PARAM;
    as(d)->attributes[name] = std::string(static_cast<const char*>(values), size_t(count) * bytes_of(type));
    return SUCCESS;
}

int cudnnBackendFinalize(void* p) {
    Descriptor& d = *as(p);
    for (int name : needed(d.kind))
        if (!d.has(name)) return BAD_PARAM;
    if (d.kind == TENSOR && d.all<int64_t>(902).size() != 4) return BAD_PARAM;
    if (d.kind == FORWARD) {
        const Descriptor *x = d.part(704), *w = d.part(703);
        if (x->one<int>(901) != w->one<int>(901)) return NOT_SUPPORTED;
        if (w->all<int64_t>(903)[1] != 1 && w->all<int64_t>(902)[1] != 1) return NOT_SUPPORTED;  // NHWC throughout
    }
    if (d.kind == PLAN) {
        const Descriptor* config = d.part(401);
        d.index = config->index;
        d.graph = config->graph;
    }
    d.finished = true;
    return SUCCESS;
}

int cudnnBackendGetAttribute(void* p, int name, int type, int64_t room, int64_t* count, void* values) {
    Descriptor& d = *as(p);
    auto** descriptors = static_cast<Descriptor**>(values);
    if (name == 202 && d.kind == HEURISTIC && type == 15) {
        ++searches;
        const auto all = fake::algorithms();
        *count = int64_t(all.size());
        for (int64_t i = 0; i < room && i < *count; ++i) {
            descriptors[i]->index = i;
            descriptors[i]->graph = d.part(201);
        }
        return SUCCESS;
    }
    if (name == 300 && d.kind == CONFIG && room == 1) {
        descriptors[0]->index = d.index;
        return *count = 1, SUCCESS;
    }
    if (name == 1303 && d.kind == ENGINE) {
        // FAKE_CUDNN_NOTE: the numerical note of the first engine.
        const char* note = std::getenv("FAKE_CUDNN_NOTE");
        *count = note && d.index == 0 ? 1 : 0;
        if (*count) static_cast<int*>(values)[0] = std::atoi(note);
        return SUCCESS;
    }
    if (name == 402 && d.kind == PLAN) {
        static_cast<int64_t*>(values)[0] = 1 << 20;
        return *count = 1, SUCCESS;
    }
    return NOT_SUPPORTED;
}

int cudnnBackendExecute(void*, void* plan, void* pack) {
    if (!as(plan)->finished || !as(pack)->finished || !as(pack)->one<uint64_t>(1003)) return BAD_PARAM;
    const double us = fake::algorithms()[size_t(as(plan)->index)];
    if (us < 0) return EXECUTION_FAILED;
    const Call call{as(plan)->graph, as(pack)};
    return fake::submit(stream, run, call, us) ? EXECUTION_FAILED : SUCCESS;
}

}  // extern "C"
