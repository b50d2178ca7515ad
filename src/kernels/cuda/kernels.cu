// The kernels of the CUDA engine, in the part of CUDA C that a C compiler reads as well: tests compile this file for
// the CPU, under an emulated driver (tests/cuda/driver.c). Here are those in f32; those on tensor cores, in f16 and int8,
// are in the files that are included at the end.
//
// All tensors, weights, inputs and outputs of a network lie in one allocation, `memory`; offsets count values from its
// start. What a launch works on is decided when the network is compiled: every kernel has the signature
// (memory, Params), and Params has the same layout as `Params` of arguments.rs. Views say how far apart pixels and channels
// are, so that pixel-major tensors, runs of their channels, and images plane after plane are all the same to a kernel.
//
// These kernels give the bits of the CPU's (src/kernels): the same operations in the same order. Sums begin with the bias
// and go through the depth product by product, each rounded once.

typedef struct {
    long long at;  // first value
    int pixel;     // values from one pixel to the next
    int channel;   // values from one channel to the next
    int c, h, w;
} TensorView;

typedef struct {
    TensorView src, dst;
    TensorView other;  // the second summand, where `has_other` says so
    long long weights, bias;
    int has_other;
    int kernel, stride, padding;
    int act;       // 0 identity, 1 SiLU, 2 ReLU
    int by_plane;  // the depth of a convolution runs over planes, then taps; otherwise over taps, then channels
    int factor;
    int heads, key_dim, head_dim;
    float scale;
} Params;

#include "device.h"

// Threads of a block of the kernels that compute one value per thread.
#define BLOCK 256

INLINE long long address(const TensorView v, const int pixel, const int channel) {
    return v.at + (long long)pixel * v.pixel + (long long)channel * v.channel;
}

// e^(sign * x) for x within +-87, `sign` 1 or -1, as src/kernels/isa/lanes.rs has it.
INLINE float exp_within(const float x, const float sign) {
    const float n = rintf(multiply_rounded(x, sign * 1.44269504088896340736f));
    float r = fmaf(n, -sign * (355.0f / 512.0f), x);
    r = fmaf(n, -sign * -2.1219444e-4f, r);
    float p = fmaf(r, sign * 8.290271e-3f, 4.189816e-2f);
    p = fmaf(p, r, sign * 1.6667639e-1f);
    p = fmaf(p, r, 4.9999148e-1f);
    p = fmaf(p, r, sign * 9.999997e-1f);
    return multiply_rounded(fmaf(p, r, 1.0f), as_float((unsigned)((int)n + 127) << 23));
}

// e^x, saturated beyond +-87.
INLINE float exp_saturated(const float x) { return exp_within(fmaxf(fminf(x, 87.0f), -87.0f), 1.0f); }

INLINE float activated(const int act, const float x) {
    if (act == 1) {
        const float least = fmaxf(x, -87.0f);
        return divide_rounded(least, add_rounded(exp_within(fminf(least, 87.0f), -1.0f), 1.0f));
    }
    return act == 2 ? fmaxf(x, 0.0f) : x;
}

// The value that this thread computes, channels first; false where there is none.
INLINE int value_of_thread(const TensorView out, int *pixel, int *channel) {
    const long long index = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (index >= (long long)out.h * out.w * out.c) return 0;
    *pixel = (int)(index / out.c);
    *channel = (int)(index % out.c);
    return 1;
}

// Dense convolution as a product of matrices that are never made: rows are output pixels, columns output channels, the
// depth runs over taps and input channels. A block of (rows * columns / 16) threads computes a tile, each thread
// 4 x 4 values; while it multiplies, the next slice of the depth is on its way from memory.
// Weights are [tap][c_in][columns], or by plane [c_in][tap][columns], the number of columns a multiple of 4.
// dst = act(conv(src) + bias) + other.
#define SLICE 16
#define MOST 64

INLINE void convolve(float *memory, const Params p, const int rows, const int columns) {
    __shared__ __align__(16) float a[SLICE][MOST + 4];
    __shared__ __align__(16) float b[SLICE][MOST + 4];
    const int threads = rows * columns / 16;
    const int t = (int)threadIdx.x;
    const int pixels = p.dst.h * p.dst.w;
    const int packed = (p.dst.c + 3) / 4 * 4;
    const int taps = p.kernel * p.kernel, depth = taps * p.src.c, inner = p.by_plane ? taps : p.src.c;
    const int first_row = (int)blockIdx.x * rows, first_column = (int)blockIdx.y * columns;

    // Every thread fetches always the same position of a slice, for several pixels.
    const int position = t % SLICE, apart = threads / SLICE, fetches = rows / apart;
    int tops[16], lefts[16];
#pragma unroll
    for (int i = 0; i < fetches; i++) {
        const int pixel = first_row + t / SLICE + i * apart;
        const int y = pixel / p.dst.w;
        // Far outside the image where there is no such pixel.
        tops[i] = pixel < pixels ? y * p.stride - p.padding : -(1 << 24);
        lefts[i] = (pixel - y * p.dst.w) * p.stride - p.padding;
    }
    const int weights = columns * SLICE / threads;

    const int top = t / (columns / 4) * 4, left = t % (columns / 4) * 4;
    float next_a[16], next_b[8], sums[4][4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int column = first_column + left + j;
        const float bias = column < packed ? memory[p.bias + column] : 0.0f;
#pragma unroll
        for (int i = 0; i < 4; i++) sums[i][j] = bias;
    }

    for (int start = 0; start < depth + SLICE; start += SLICE) {
        if (start < depth) {
            const int k = start + position, outside = k / inner, within = k - outside * inner;
            const int tap = p.by_plane ? within : outside, channel = p.by_plane ? outside : within;
            const int down = tap / p.kernel, right = tap - down * p.kernel;
#pragma unroll
            for (int i = 0; i < fetches; i++) {
                const int y = tops[i] + down, x = lefts[i] + right;
                const int inside = k < depth && y >= 0 && y < p.src.h && x >= 0 && x < p.src.w;
                next_a[i] = inside ? memory[address(p.src, y * p.src.w + x, channel)] : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < weights; i++) {
                const int row = start + (t + i * threads) / columns;
                const int column = first_column + (t + i * threads) % columns;
                const int inside = row < depth && column < packed;
                next_b[i] = inside ? memory[p.weights + (long long)row * packed + column] : 0.0f;
            }
        }
        if (start > 0) {
#pragma unroll
            for (int k = 0; k < SLICE; k++) {
                const float4 x = *(const float4 *)&a[k][top];
                const float4 y = *(const float4 *)&b[k][left];
                const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) sums[i][j] = fmaf(xs[i], ys[j], sums[i][j]);
            }
            __syncthreads();
        }
        if (start < depth) {
#pragma unroll
            for (int i = 0; i < fetches; i++) a[position][t / SLICE + i * apart] = next_a[i];
#pragma unroll
            for (int i = 0; i < weights; i++) b[(t + i * threads) / columns][(t + i * threads) % columns] = next_b[i];
            __syncthreads();
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int pixel = first_row + top + i;
        if (pixel >= pixels) continue;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int channel = first_column + left + j;
            if (channel >= p.dst.c) continue;
            float value = activated(p.act, sums[i][j]);
            if (p.has_other) value += memory[address(p.other, pixel, channel)];
            memory[address(p.dst, pixel, channel)] = value;
        }
    }
}

KERNEL(256) conv_64x64(float *memory, const Params p) { convolve(memory, p, 64, 64); }
KERNEL(128) conv_64x32(float *memory, const Params p) { convolve(memory, p, 64, 32); }
KERNEL(64) conv_64x16(float *memory, const Params p) { convolve(memory, p, 64, 16); }
KERNEL(64) conv_32x32(float *memory, const Params p) { convolve(memory, p, 32, 32); }

// The channel of a packed input of attention that is a channel of its values, head after head.
INLINE int value_channel(const Params p, const int channel) {
    return channel / p.head_dim * (2 * p.key_dim + p.head_dim) + 2 * p.key_dim + channel % p.head_dim;
}

// Depthwise convolution: every channel by itself; with heads of the values of a packed input of attention. Weights are [tap][c]. dst = act(conv(src) + bias) + other.
KERNEL(BLOCK) depthwise(float *memory, const Params p) {
    int pixel, channel;
    if (!value_of_thread(p.dst, &pixel, &channel)) return;
    const int top = pixel / p.dst.w * p.stride - p.padding, left = pixel % p.dst.w * p.stride - p.padding;
    const int from = p.heads ? value_channel(p, channel) : channel;
    float sum = memory[p.bias + channel];
    for (int down = 0; down < p.kernel; down++) {
        const int y = top + down;
        if (y < 0 || y >= p.src.h) continue;
        for (int right = 0; right < p.kernel; right++) {
            const int x = left + right;
            if (x < 0 || x >= p.src.w) continue;
            const long long weight = p.weights + (long long)(down * p.kernel + right) * p.dst.c + channel;
            sum = fmaf(memory[address(p.src, y * p.src.w + x, from)], memory[weight], sum);
        }
    }
    float value = activated(p.act, sum);
    if (p.has_other) value += memory[address(p.other, pixel, channel)];
    memory[address(p.dst, pixel, channel)] = value;
}

// Maximum over windows; pixels outside the image do not count.
KERNEL(BLOCK) max_pool(float *memory, const Params p) {
    int pixel, channel;
    if (!value_of_thread(p.dst, &pixel, &channel)) return;
    const int top = pixel / p.dst.w * p.stride - p.padding, left = pixel % p.dst.w * p.stride - p.padding;
    float best = -INFINITY;
    for (int y = top > 0 ? top : 0; y < top + p.kernel && y < p.src.h; y++)
        for (int x = left > 0 ? left : 0; x < left + p.kernel && x < p.src.w; x++)
            best = fmaxf(best, memory[address(p.src, y * p.src.w + x, channel)]);
    memory[address(p.dst, pixel, channel)] = best;
}

// Upsamples by an integer factor, repeating the nearest pixel; by 1 a copy, also to and from images plane after plane.
// Channels that src does not have become zero.
KERNEL(BLOCK) upsample(float *memory, const Params p) {
    int pixel, channel;
    if (!value_of_thread(p.dst, &pixel, &channel)) return;
    const int y = pixel / p.dst.w / p.factor, x = pixel % p.dst.w / p.factor;
    memory[address(p.dst, pixel, channel)] = channel < p.src.c ? memory[address(p.src, y * p.src.w + x, channel)] : 0.0f;
}

// Pixel shuffle: every pixel of src holds a square of factor x factor pixels, row after row in its channels.
KERNEL(BLOCK) pixel_shuffle(float *memory, const Params p) {
    int pixel, channel;
    if (!value_of_thread(p.dst, &pixel, &channel)) return;
    const int y = pixel / p.dst.w, x = pixel % p.dst.w;
    const int tap = y % p.factor * p.factor + x % p.factor;
    const int from = y / p.factor * p.src.w + x / p.factor;
    memory[address(p.dst, pixel, channel)] = memory[address(p.src, from, tap * p.dst.c + channel)];
}

// The attention values of a packed input, head after head.
KERNEL(BLOCK) attention_values(float *memory, const Params p) {
    int pixel, channel;
    if (!value_of_thread(p.dst, &pixel, &channel)) return;
    memory[address(p.dst, pixel, channel)] = memory[address(p.src, pixel, value_channel(p, channel))];
}

KERNEL(BLOCK) activate(float *memory, const Params p) {
    int pixel, channel;
    if (!value_of_thread(p.dst, &pixel, &channel)) return;
    memory[address(p.dst, pixel, channel)] = activated(p.act, memory[address(p.src, pixel, channel)]);
}

// dst = src + other.
KERNEL(BLOCK) add(float *memory, const Params p) {
    int pixel, channel;
    if (!value_of_thread(p.dst, &pixel, &channel)) return;
    const float first = memory[address(p.src, pixel, channel)], second = memory[address(p.other, pixel, channel)];
    memory[address(p.dst, pixel, channel)] = first + second;
}

// Mean over all pixels, summed in f64: a channel a thread.
KERNEL(BLOCK) average(float *memory, const Params p) {
    int pixel, channel;
    if (!value_of_thread(p.dst, &pixel, &channel)) return;
    const int pixels = p.src.h * p.src.w;
    double sum = 0.0;
    for (int other = 0; other < pixels; other++) sum += (double)memory[address(p.src, other, channel)];
    memory[address(p.dst, pixel, channel)] = (float)(sum / (double)pixels);
}

// softmax(scale * q^T k) applied to the values. A block takes 4 queries of a head and 128 channels of its values. It finds
// the largest logit of every query, then the total of the exponentials as 16 partial sums, every 16th key each, and last
// mixes the values. The weights of 1024 keys are kept from one step to the next, those of more are computed again.
#define QUERIES 4
#define KEYS 128
#define KEPT 1024
#define PARTIAL_SUMS 16

INLINE float logit(const float *memory, const Params p, const int head, const int query, const int key) {
    const int first = head * (2 * p.key_dim + p.head_dim);
    float sum = 0.0f;
    for (int c = 0; c < p.key_dim; c++) {
        const float scaled = multiply_rounded(p.scale, memory[address(p.src, key, first + p.key_dim + c)]);
        sum = fmaf(memory[address(p.src, query, first + c)], scaled, sum);
    }
    return sum;
}

KERNEL(KEYS) attention(float *memory, const Params p) {
    __shared__ float weights[QUERIES][KEPT];
    __shared__ float shared_tops[QUERIES][KEYS];
    const int t = (int)threadIdx.x, pixels = p.src.h * p.src.w, head = (int)blockIdx.y, again = pixels > KEPT;
    const int channel = (int)blockIdx.z * KEYS + t, first = (int)blockIdx.x * QUERIES;
    const int from = head * (2 * p.key_dim + p.head_dim) + 2 * p.key_dim + channel;
    int queries[QUERIES];
    float tops[QUERIES], sums[QUERIES], factors[QUERIES];
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
        // Queries beyond the last are computed as the last, and not written.
        queries[q] = first + q < pixels ? first + q : pixels - 1;
        tops[q] = -INFINITY, sums[q] = 0.0f;
    }
    for (int key = t; key < pixels; key += KEYS)
#pragma unroll
        for (int q = 0; q < QUERIES; q++) {
            const float found = logit(memory, p, head, queries[q], key);
            if (!again) weights[q][key] = found;
            tops[q] = fmaxf(tops[q], found);
        }
#pragma unroll
    for (int q = 0; q < QUERIES; q++) shared_tops[q][t] = tops[q];
    __syncthreads();
    for (int half = KEYS / 2; half > 0; half /= 2) {
        if (t < half)
#pragma unroll
            for (int q = 0; q < QUERIES; q++) shared_tops[q][t] = fmaxf(shared_tops[q][t], shared_tops[q][t + half]);
        __syncthreads();
    }
#pragma unroll
    for (int q = 0; q < QUERIES; q++) tops[q] = shared_tops[q][0];
    const int own = t / PARTIAL_SUMS % QUERIES, sums_up = t < QUERIES * PARTIAL_SUMS;
    float partial = 0.0f;
    for (int start = 0; start < pixels; start += KEPT) {
        const int count = pixels - start < KEPT ? pixels - start : KEPT;
        for (int key = t; key < count; key += KEYS)
#pragma unroll
            for (int q = 0; q < QUERIES; q++) {
                const float found = again ? logit(memory, p, head, queries[q], start + key) : weights[q][key];
                weights[q][key] = exp_saturated(add_rounded(found, -tops[q]));
            }
        __syncthreads();
        if (sums_up)
            for (int key = t % PARTIAL_SUMS; key < count; key += PARTIAL_SUMS) partial = add_rounded(partial, weights[own][key]);
        __syncthreads();
    }
    if (sums_up) shared_tops[own][t % PARTIAL_SUMS] = partial;
    __syncthreads();
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
        float total = 0.0f;
        for (int i = 0; i < PARTIAL_SUMS; i++) total = add_rounded(total, shared_tops[q][i]);
        factors[q] = divide_rounded(1.0f, total);
    }
    for (int start = 0; start < pixels; start += KEPT) {
        const int count = pixels - start < KEPT ? pixels - start : KEPT;
        for (int key = t; key < count; key += KEYS)
#pragma unroll
            for (int q = 0; q < QUERIES; q++) {
                float weight = weights[q][key];
                if (again) weight = exp_saturated(add_rounded(logit(memory, p, head, queries[q], start + key), -tops[q]));
                weights[q][key] = multiply_rounded(weight, factors[q]);
            }
        __syncthreads();
        for (int i = 0; i < count; i++) {
            const float value = channel < p.head_dim ? memory[address(p.src, start + i, from)] : 0.0f;
#pragma unroll
            for (int q = 0; q < QUERIES; q++) sums[q] = fmaf(weights[q][i], value, sums[q]);
        }
        __syncthreads();
    }
    if (channel >= p.head_dim) return;
#pragma unroll
    for (int q = 0; q < QUERIES; q++)
        if (first + q < pixels) memory[address(p.dst, first + q, head * p.head_dim + channel)] = sums[q];
}

#include "cells.h"
#include "peaks.h"
// Programs that only run networks carry no kernels of a training step (build.rs).
#ifdef CARRY_TRAINING
#include "train/attention.h"
#include "train/conv.h"
#include "train/loss.h"
#include "train/norm.h"
#include "train/rounding.h"
#include "train/samples.h"
#include "train/squares.h"
#include "train/update.h"
#include "train/window.h"
#endif
