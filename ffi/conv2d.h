#pragma once
#include <stdint.h>

#include "epilogue.h"
#include "tensor_map.h"

/// As many inputs may lie side by side in the channels of one convolution.
#define CONV2D_SOURCES 8

/// One input of a convolution: its pixels `[batch, height, width]`, each a row of dense channels.
typedef struct ConvSource {
    /// Address of the first pixel.
    uint64_t x;
    /// Elements from one pixel to the next.
    int64_t step;
    /// Channels of this input.
    int32_t channels;
    /// Padding.
    uint32_t reserved;
} ConvSource;

/// Where a convolution reads: result (oy, ox) at tap (ky, kx) reads input pixel (ty / repeat_y, tx / repeat_x) with
/// ty = oy * stride_y - pad_y + ky * dilation_y, likewise x, if 0 <= ty < reach_y. A forward convolution has
/// repeat = enlargement; the gradient of the input is the convolution of dy that strides become in reverse:
/// repeat = stride with `stuffed`, where only ty that are multiples of repeat_y count.
typedef struct ConvGeometry {
    /// Input pixels of one picture, rows and columns as in memory.
    int32_t height;
    int32_t width;
    /// Exclusive limits of ty and tx: height * repeat_y, width * repeat_x.
    int32_t reach_y;
    int32_t reach_x;
    /// Rows and columns of the result.
    int32_t out_h;
    int32_t out_w;
    /// Taps of the kernel.
    int32_t kernel_h;
    int32_t kernel_w;
    /// Steps of the result's pixels in the input.
    int32_t stride_y;
    int32_t stride_x;
    /// Zeros above and left; negative in gradients that crop.
    int32_t pad_y;
    int32_t pad_x;
    /// Distance of taps.
    int32_t dilation_y;
    int32_t dilation_x;
    /// How often an input pixel is repeated (or, if `stuffed`, the distance of pixels in a sea of zeros).
    int32_t repeat_y;
    int32_t repeat_x;
    /// Their binary logarithms (tensor-core forms, which take powers of two).
    int32_t shift_y;
    int32_t shift_x;
    /// 1: zeros lie between the input's pixels; 0: copies.
    int32_t stuffed;
    /// All result pixels: batch * out_h * out_w.
    int32_t pixels;
} ConvGeometry;

/// Parameters of `conv2d_fwd_*`: y = epilogue(sum over taps and channels of x * w), NHWC.
typedef struct Conv2dFwd {
    /// The inputs, concatenated along their channels; `sources` of them.
    ConvSource source[CONV2D_SOURCES];
    /// Weights as `conv2d_pack_*` arranges them.
    uint64_t w;
    /// y, dense `[pixels, groups * cout]`.
    uint64_t y;
    /// Halo form: scale and shift of the input's channels, f32 `[batch, 2, cin]`, with which x becomes
    /// f(x * scale + shift) on its way into the products; 0: x as it is.
    uint64_t norm;
    /// Halo form, result: mean of y and sum of squared distances from it, of every channel over every tile, f32
    /// `[batch, tiles, cout, 2]`; 0: not wanted.
    uint64_t moments;
    /// What happens to a sum.
    Epilogue epilogue;
    /// Where taps read.
    ConvGeometry geometry;
    /// How many inputs.
    int32_t sources;
    /// Channel groups (general form; 1 in tensor-core forms).
    int32_t groups;
    /// Input channels of a group.
    int32_t cin;
    /// Output channels of a group.
    int32_t cout;
    /// `cout` rounded up to what the packed weights have, a multiple of the kernel's tile.
    int32_t cout_padded;
    /// 1: y and the residual are f32 whatever x is.
    int32_t y_is_f32;
    /// 1: f is SiLU; 0: f is the identity.
    int32_t norm_silu;
    /// Padding.
    uint32_t reserved;
} Conv2dFwd;

/// Parameters of `conv2d_fwd_*_sm90`.
typedef struct Conv2dFwdSm90 {
    /// The packed weights as [slices * cout_padded, 32], a box 128 rows, as they are.
    TensorMap weights;
    /// All the rest.
    Conv2dFwd conv;
    /// Padding.
    uint32_t reserved[12];
} Conv2dFwdSm90;

/// Parameters of `conv2d_pack_*`: weights from `[out, in/groups, kh, kw]` into the order of a kernel's slices. The
/// gradient of the input wants the kernel turned by 180 degrees with input and output exchanged; the steps say that.
typedef struct Conv2dPack {
    /// w as stored.
    uint64_t w;
    /// Packed weights.
    uint64_t packed;
    /// Elements of w between groups, between output channels and between input channels of this use.
    int64_t group_step;
    int64_t cout_step;
    int64_t cin_step;
    /// Threads with work: one a 16-byte piece of the result, on tensor cores of its first tap.
    int64_t pieces;
    /// Channels of each input (tensor-core forms).
    int32_t channels[CONV2D_SOURCES];
    /// How many inputs.
    int32_t sources;
    /// Taps of the kernel, kh * kw.
    int32_t taps;
    /// 1: the last tap comes first.
    int32_t turned;
    /// 1: the taps of a slice of channels follow each other (halo form); 0: the slices of a tap do.
    int32_t taps_inside;
    /// Input channels of a group.
    int32_t cin;
    /// Output channels of a group, and that rounded up to the tile.
    int32_t cout;
    int32_t cout_padded;
    /// taps * cin rounded up to the depth of a slice (general form).
    int32_t depth_padded;
} Conv2dPack;

/// Parameters of `conv2d_grad_weight_*`: partial[split][n][tap, c] = sum over the split's pixels of dy[pixel, n] *
/// x[pixel at tap, c].
typedef struct Conv2dGradWeight {
    /// x and how far its pixels are apart.
    uint64_t x;
    int64_t x_step;
    /// dy, likewise.
    uint64_t dy;
    int64_t dy_step;
    /// Partial sums, f32, dense `[splits, groups * cout, kernel_h * kernel_w * cin]`.
    uint64_t partial;
    /// Of the forward convolution; pixels are those of dy.
    ConvGeometry geometry;
    /// Channel groups.
    int32_t groups;
    /// Input channels of a group.
    int32_t cin;
    /// Output channels of a group.
    int32_t cout;
    /// Pixels of one split, a multiple of 32.
    int32_t split_pixels;
} Conv2dGradWeight;

/// Parameters of `conv2d_grad_weight_sum_*`: dw[n][c][tap] = sum over splits of partial[split][n][tap, c], in order.
typedef struct Conv2dGradWeightSum {
    /// Partial sums of `conv2d_grad_weight_*`.
    uint64_t partial;
    /// dw, f32, dense `[rows, cin, taps]`.
    uint64_t dw;
    /// Output channels of all groups times `cin` times `taps`.
    int64_t len;
    /// How many partial sums.
    int32_t splits;
    /// Input channels of a group.
    int32_t cin;
    /// Taps of the kernel.
    int32_t taps;
    /// Padding.
    uint32_t reserved;
} Conv2dGradWeightSum;
