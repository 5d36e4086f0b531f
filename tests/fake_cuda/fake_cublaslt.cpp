// A stand-in for cuBLASLt: products by three loops in double, with the constraints of the real library that the
// program must know (a bias is of the result's type, columns do not overlap, addresses are as aligned as was
// said). The order of elements is the library's: by columns.
#include <map>

#include "library.h"

namespace {

enum Status { SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
constexpr uint64_t MAGIC = 0x0123456789abcdef;

struct Described {
    std::map<int, uint64_t> attributes;
    int type = 0;
    uint64_t rows = 0, columns = 0;
    int64_t step = 0;

    uint64_t get(int name, uint64_t usual) const {
        auto it = attributes.find(name);
        return it == attributes.end() ? usual : it->second;
    }
};
Described* as(void* p) { return static_cast<Described*>(p); }

int set(void* d, int name, const void* value, size_t bytes) {
    if (bytes != 4 && bytes != 8) return INVALID_VALUE;
    uint64_t wide = 0;
    std::memcpy(&wide, value, bytes);
    as(d)->attributes[name] = wide;
    return SUCCESS;
}
int destroy(void* d) { return delete as(d), SUCCESS; }

struct Algorithm {
    uint64_t data[8];
};
struct Guess {
    Algorithm algorithm;
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
};

fake::Type type_of(int t) { return t == 0 ? fake::F32 : t == 2 ? fake::F16 : fake::BF16; }

/// D = epilogue(alpha·op(A)·op(B) + beta·C), as it travels to the device.
struct Call {
    fake::Type types[4];
    bool turned[2];
    int epilogue, batch;
    uint64_t bias, pointers[4];
    int64_t m, n, k, steps[4], batch_steps[4];
    float alpha, beta;
};

int run(const void* p) {
    const Call& c = *static_cast<const Call*>(p);
    for (int item = 0; item < c.batch; ++item)
        for (int64_t col = 0; col < c.n; ++col)
            for (int64_t row = 0; row < c.m; ++row) {
                double sum = 0;
                for (int64_t i = 0; i < c.k; ++i) {
                    const int64_t a = c.turned[0] ? i + row * c.steps[0] : row + i * c.steps[0];
                    const int64_t b = c.turned[1] ? col + i * c.steps[1] : i + col * c.steps[1];
                    sum += fake::load(c.types[0], c.pointers[0], item * c.batch_steps[0] + a) *
                           fake::load(c.types[1], c.pointers[1], item * c.batch_steps[1] + b);
                }
                const int64_t old = item * c.batch_steps[2] + row + col * c.steps[2];
                double v = c.alpha * sum;
                if (c.beta != 0) v += c.beta * fake::load(c.types[2], c.pointers[2], old);
                if (c.epilogue & 4) v += fake::load(c.types[3], c.bias, row);
                if (c.epilogue & 2) v = v > 0 ? v : 0;
                if (c.epilogue & 32) v = fake::gelu_tanh(v);
                fake::store(c.types[3], c.pointers[3], item * c.batch_steps[3] + row + col * c.steps[3], v);
            }
    return 0;
}

/// What the real library refuses too.
int refused(void* desc, void* a, void* b, void* c, void* d) {
    const uint64_t ta = as(desc)->get(3, 0), tb = as(desc)->get(4, 0);
    const Described &A = *as(a), &B = *as(b), &C = *as(c), &D = *as(d);
    for (const Described* x : {&A, &B, &C, &D})
        if (x->step < int64_t(x->rows)) return INVALID_VALUE;
    const uint64_t m = ta ? A.columns : A.rows, k = ta ? A.rows : A.columns;
    if (m != D.rows || (tb ? B.rows : B.columns) != D.columns || (tb ? B.columns : B.rows) != k) return INVALID_VALUE;
    if (A.type != B.type || C.type != D.type || (D.type != A.type && D.type != 0)) return NOT_SUPPORTED;
    if ((as(desc)->get(7, 1) & 4) && int(as(desc)->get(26, D.type)) != D.type) return NOT_SUPPORTED;
    return SUCCESS;
}

unsigned searches = 0;

}  // namespace

extern "C" {

/// How often the heuristic was asked.
unsigned fake_cublaslt_searches() { return searches; }

size_t cublasLtGetVersion() { return fake::version("FAKE_CUBLASLT_VERSION", 120401); }
int cublasLtCreate(void** handle) { return *handle = &searches, SUCCESS; }

int cublasLtMatmulDescCreate(void** d, int compute, int scale) {
    if (compute != 68 || scale != 0) return NOT_SUPPORTED;
    return *d = new Described, SUCCESS;
}
int cublasLtMatmulDescSetAttribute(void* d, int name, const void* v, size_t n) { return set(d, name, v, n); }
int cublasLtMatmulDescDestroy(void* d) { return destroy(d); }
int cublasLtMatrixLayoutCreate(void** d, int type, uint64_t rows, uint64_t columns, int64_t step) {
    auto* layout = new Described;
    layout->type = type;
    layout->rows = rows;
    layout->columns = columns;
    layout->step = step;
    return *d = layout, SUCCESS;
}
int cublasLtMatrixLayoutSetAttribute(void* d, int name, const void* v, size_t n) { return set(d, name, v, n); }
int cublasLtMatrixLayoutDestroy(void* d) { return destroy(d); }
int cublasLtMatmulPreferenceCreate(void** d) { return *d = new Described, SUCCESS; }
int cublasLtMatmulPreferenceSetAttribute(void* d, int name, const void* v, size_t n) { return set(d, name, v, n); }
int cublasLtMatmulPreferenceDestroy(void* d) { return destroy(d); }

int cublasLtMatmulAlgoGetHeuristic(void*, void* desc, void* a, void* b, void* c, void* d, void* preference, int most,
                                   Guess* guesses, int* found) {
    ++searches;
    *found = 0;
    if (int why = refused(desc, a, b, c, d)) return why;
    for (int name = 5; name <= 8; ++name)
        if (as(preference)->get(name, 256) > 16) return NOT_SUPPORTED;  // nobody said how addresses are aligned
    const auto all = fake::algorithms();
    for (int i = 0; i < most && i < int(all.size()); ++i) {
        guesses[i] = Guess{{{uint64_t(i), MAGIC}}, 1 << 20, SUCCESS, 1, {}};
        *found = i + 1;
    }
    return SUCCESS;
}

int cublasLtMatmulAlgoCheck(void*, void* desc, void* a, void* b, void* c, void* d, const Algorithm* algorithm,
                            Guess* guess) {
    if (algorithm->data[1] != MAGIC || algorithm->data[0] >= fake::algorithms().size()) return INVALID_VALUE;
    *guess = Guess{*algorithm, 1 << 20, SUCCESS, 1, {}};
    return refused(desc, a, b, c, d);
}

int cublasLtMatmul(void*, void* desc, const float* alpha, uint64_t a, void* ad, uint64_t b, void* bd,
                   const float* beta, uint64_t c, void* cd, uint64_t d, void* dd, const Algorithm* algorithm,
                   void* workspace, size_t bytes, void* stream) {
    if (int why = refused(desc, ad, bd, cd, dd)) return why;
    if (algorithm->data[1] != MAGIC || !workspace || bytes < 1 << 20) return INVALID_VALUE;
    const double us = fake::algorithms()[algorithm->data[0]];
    if (us < 0) return EXECUTION_FAILED;
    Call call{};
    const Described* all[4] = {as(ad), as(bd), as(cd), as(dd)};
    const uint64_t pointers[4] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) {
        call.types[i] = type_of(all[i]->type);
        call.pointers[i] = pointers[i];
        call.steps[i] = all[i]->step;
        call.batch_steps[i] = int64_t(all[i]->get(6, 0));
    }
    call.turned[0] = as(desc)->get(3, 0);
    call.turned[1] = as(desc)->get(4, 0);
    call.epilogue = int(as(desc)->get(7, 1));
    call.bias = as(desc)->get(8, 0);
    call.batch = int(all[3]->get(5, 1));
    call.m = int64_t(all[3]->rows);
    call.n = int64_t(all[3]->columns);
    call.k = int64_t(call.turned[0] ? all[0]->rows : all[0]->columns);
    call.alpha = *alpha;
    call.beta = *beta;
    return fake::submit(stream, run, call, us) ? EXECUTION_FAILED : SUCCESS;
}

}  // extern "C"
