// wgmma.mma_async.m64nNk16 with its N/2 accumulators spelled out, for sm90.cuh alone: PTX has no arrays of
// registers. DC_WGMMA_FOR_EACH_N(M) is M(N, i0, i1, i2, i3, i4, i5, i6, i7) for every N of the instruction,
// with the numbers that the first operands after the accumulators have.
#pragma once

#define DC_D8 "%0, %1, %2, %3"
#define DC_D16 DC_D8 ", " "%4, %5, %6, %7"
#define DC_D24 DC_D16 ", " "%8, %9, %10, %11"
#define DC_D32 DC_D24 ", " "%12, %13, %14, %15"
#define DC_D40 DC_D32 ", " "%16, %17, %18, %19"
#define DC_D48 DC_D40 ", " "%20, %21, %22, %23"
#define DC_D56 DC_D48 ", " "%24, %25, %26, %27"
#define DC_D64 DC_D56 ", " "%28, %29, %30, %31"
#define DC_D72 DC_D64 ", " "%32, %33, %34, %35"
#define DC_D80 DC_D72 ", " "%36, %37, %38, %39"
#define DC_D88 DC_D80 ", " "%40, %41, %42, %43"
#define DC_D96 DC_D88 ", " "%44, %45, %46, %47"
#define DC_D104 DC_D96 ", " "%48, %49, %50, %51"
#define DC_D112 DC_D104 ", " "%52, %53, %54, %55"
#define DC_D120 DC_D112 ", " "%56, %57, %58, %59"
#define DC_D128 DC_D120 ", " "%60, %61, %62, %63"
#define DC_D136 DC_D128 ", " "%64, %65, %66, %67"
#define DC_D144 DC_D136 ", " "%68, %69, %70, %71"
#define DC_D152 DC_D144 ", " "%72, %73, %74, %75"
#define DC_D160 DC_D152 ", " "%76, %77, %78, %79"
#define DC_D168 DC_D160 ", " "%80, %81, %82, %83"
#define DC_D176 DC_D168 ", " "%84, %85, %86, %87"
#define DC_D184 DC_D176 ", " "%88, %89, %90, %91"
#define DC_D192 DC_D184 ", " "%92, %93, %94, %95"
#define DC_D200 DC_D192 ", " "%96, %97, %98, %99"
#define DC_D208 DC_D200 ", " "%100, %101, %102, %103"
#define DC_D216 DC_D208 ", " "%104, %105, %106, %107"
#define DC_D224 DC_D216 ", " "%108, %109, %110, %111"
#define DC_D232 DC_D224 ", " "%112, %113, %114, %115"
#define DC_D240 DC_D232 ", " "%116, %117, %118, %119"
#define DC_D248 DC_D240 ", " "%120, %121, %122, %123"
#define DC_D256 DC_D248 ", " "%124, %125, %126, %127"

#define DC_F(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define DC_F8 DC_F(0)
#define DC_F16 DC_F8, DC_F(4)
#define DC_F24 DC_F16, DC_F(8)
#define DC_F32 DC_F24, DC_F(12)
#define DC_F40 DC_F32, DC_F(16)
#define DC_F48 DC_F40, DC_F(20)
#define DC_F56 DC_F48, DC_F(24)
#define DC_F64 DC_F56, DC_F(28)
#define DC_F72 DC_F64, DC_F(32)
#define DC_F80 DC_F72, DC_F(36)
#define DC_F88 DC_F80, DC_F(40)
#define DC_F96 DC_F88, DC_F(44)
#define DC_F104 DC_F96, DC_F(48)
#define DC_F112 DC_F104, DC_F(52)
#define DC_F120 DC_F112, DC_F(56)
#define DC_F128 DC_F120, DC_F(60)
#define DC_F136 DC_F128, DC_F(64)
#define DC_F144 DC_F136, DC_F(68)
#define DC_F152 DC_F144, DC_F(72)
#define DC_F160 DC_F152, DC_F(76)
#define DC_F168 DC_F160, DC_F(80)
#define DC_F176 DC_F168, DC_F(84)
#define DC_F184 DC_F176, DC_F(88)
#define DC_F192 DC_F184, DC_F(92)
#define DC_F200 DC_F192, DC_F(96)
#define DC_F208 DC_F200, DC_F(100)
#define DC_F216 DC_F208, DC_F(104)
#define DC_F224 DC_F216, DC_F(108)
#define DC_F232 DC_F224, DC_F(112)
#define DC_F240 DC_F232, DC_F(116)
#define DC_F248 DC_F240, DC_F(120)
#define DC_F256 DC_F248, DC_F(124)

#define DC_WGMMA_FOR_EACH_N(M) \
    M(8, 4, 5, 6, 7, 8, 9, 10, 11) \
    M(16, 8, 9, 10, 11, 12, 13, 14, 15) \
    M(24, 12, 13, 14, 15, 16, 17, 18, 19) \
    M(32, 16, 17, 18, 19, 20, 21, 22, 23) \
    M(40, 20, 21, 22, 23, 24, 25, 26, 27) \
    M(48, 24, 25, 26, 27, 28, 29, 30, 31) \
    M(56, 28, 29, 30, 31, 32, 33, 34, 35) \
    M(64, 32, 33, 34, 35, 36, 37, 38, 39) \
    M(72, 36, 37, 38, 39, 40, 41, 42, 43) \
    M(80, 40, 41, 42, 43, 44, 45, 46, 47) \
    M(88, 44, 45, 46, 47, 48, 49, 50, 51) \
    M(96, 48, 49, 50, 51, 52, 53, 54, 55) \
    M(104, 52, 53, 54, 55, 56, 57, 58, 59) \
    M(112, 56, 57, 58, 59, 60, 61, 62, 63) \
    M(120, 60, 61, 62, 63, 64, 65, 66, 67) \
    M(128, 64, 65, 66, 67, 68, 69, 70, 71) \
    M(136, 68, 69, 70, 71, 72, 73, 74, 75) \
    M(144, 72, 73, 74, 75, 76, 77, 78, 79) \
    M(152, 76, 77, 78, 79, 80, 81, 82, 83) \
    M(160, 80, 81, 82, 83, 84, 85, 86, 87) \
    M(168, 84, 85, 86, 87, 88, 89, 90, 91) \
    M(176, 88, 89, 90, 91, 92, 93, 94, 95) \
    M(184, 92, 93, 94, 95, 96, 97, 98, 99) \
    M(192, 96, 97, 98, 99, 100, 101, 102, 103) \
    M(200, 100, 101, 102, 103, 104, 105, 106, 107) \
    M(208, 104, 105, 106, 107, 108, 109, 110, 111) \
    M(216, 108, 109, 110, 111, 112, 113, 114, 115) \
    M(224, 112, 113, 114, 115, 116, 117, 118, 119) \
    M(232, 116, 117, 118, 119, 120, 121, 122, 123) \
    M(240, 120, 121, 122, 123, 124, 125, 126, 127) \
    M(248, 124, 125, 126, 127, 128, 129, 130, 131) \
    M(256, 128, 129, 130, 131, 132, 133, 134, 135)

/// a and b in shared memory.
#define DC_WGMMA_SS(N, TYPE, I0, I1, I2, I3, I4)                                                     \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I2 ", 0;\n"                                   \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" DC_D##N "}, "  \
                 "%" #I0 ", %" #I1 ", p, 1, 1, %" #I3 ", %" #I4 ";\n}\n"                             \
                 : DC_F##N                                                                           \
                 : "l"(a), "l"(b), "r"(int(accumulate)), "n"(int(A_TRANS)), "n"(int(B_TRANS)))
/// a in registers.
#define DC_WGMMA_RS(N, TYPE, I0, I1, I2, I3, I4, I5, I6)                                             \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I5 ", 0;\n"                                   \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" DC_D##N "}, "  \
                 "{%" #I0 ", %" #I1 ", %" #I2 ", %" #I3 "}, %" #I4 ", p, 1, 1, %" #I6 ";\n}\n"       \
                 : DC_F##N                                                                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)), "n"(int(B_TRANS)))
