// Convolutions of a training step, as products of matrices that are never made:
//
//   FORWARD   y = x * kernel + bias       rows: pixels of y, columns: its channels, depth: taps x channels of x
//   DATA      y = gradient of the input   the same from the gradient x of the output, by a kernel turned round. With a
//             stride every blockIdx.z has the pixels of y of one residue, which all read the same taps. This is also a
//             transposed convolution.
//   WEIGHTS   gradient of the kernel      rows: channels of the gradient z of the output, columns: taps x channels of
//             x, depth: pixels. Every blockIdx.z sums up `rows` pixels; add_up joins the parts in their order.
//
// Arrays: 0 the kernel, or the parts of its gradient; 1 the bias, where `has_bias` says so.
#pragma once
#include "tensors.h"

enum { FORWARD, DATA, WEIGHTS };

// The pixels of y that a product computes, and the taps that they read.
typedef struct {
    int first_y, first_x, high, wide;
    int down, right;            // taps
    int first_down, first_right;  // the first tap
} Lattice;

INLINE Lattice lattice_of(const Training *p, const int kind) {
    const int s = p->stride;
    Lattice l = {0, 0, p->y.h, p->y.w, p->kernel, p->kernel, 0, 0};
    if (kind == DATA) {
        l.first_y = (int)blockIdx.z / s, l.first_x = (int)blockIdx.z % s;
        l.high = (p->y.h - l.first_y + s - 1) / s, l.wide = (p->y.w - l.first_x + s - 1) / s;
        l.first_down = (l.first_y + p->padding) % s, l.first_right = (l.first_x + p->padding) % s;
        l.down = (p->kernel - l.first_down + s - 1) / s, l.right = (p->kernel - l.first_right + s - 1) / s;
    }
    return l;
}

// Where in x the window of a row begins. DATA goes up and left from there.
typedef struct {
    int image, top, left;
} Corner;

INLINE Corner corner_of(const Training *p, const Lattice *l, const int kind, const int row) {
    const int area = l->high * l->wide, image = row / area, y = (row - image * area) / l->wide;
    const int x = row - image * area - y * l->wide, s = p->stride;
    Corner c = {image, y * s - p->padding, x * s - p->padding};
    if (kind == DATA) {
        c.top = (l->first_y + y * s + p->padding - l->first_down) / s;
        c.left = (l->first_x + x * s + p->padding - l->first_right) / s;
    }
    return c;
}

INLINE float window_value(const char *memory, const Training *p, const Lattice *l, const int kind, const int f16,
                          const Corner c, const int k) {
    const int tap = k / p->x.c, channel = k - tap * p->x.c, down = tap / l->right, right = tap - down * l->right;
    int pixel;
    const int inside = kind == FORWARD ? pixel_at(p->x, c.image, c.top + down, c.left + right, &pixel)
                                       : pixel_at(p->x, c.image, c.top - down, c.left - right, &pixel);
    return inside ? batch_value(memory, p->x, f16, pixel, channel) : 0.0f;
}

INLINE float weight_value(const float *weights, const Training *p, const Lattice *l, const int kind, const int depth,
                          const int k, const int column) {
    if (kind == FORWARD) return weights[(long long)column * depth + k];
    const int tap = k / p->x.c, channel = k - tap * p->x.c, down = tap / l->right, right = tap - down * l->right;
    const int whole = (l->first_down + down * p->stride) * p->kernel + l->first_right + right * p->stride;
    return weights[((long long)channel * p->kernel * p->kernel + whole) * p->y.c + column];
}

// The value of x that a column of WEIGHTS (tap and channel) multiplies with pixel k of z.
INLINE float shifted_value(const char *memory, const Training *p, const int f16, const int column, const int k) {
    const int tap = column / p->x.c, channel = column - tap * p->x.c;
    const int down = tap / p->kernel, right = tap - down * p->kernel;
    int image, y, x, pixel;
    place_of(p->z, k, &image, &y, &x);
    const int top = y * p->stride - p->padding, left = x * p->stride - p->padding;
    const int inside = pixel_at(p->x, image, top + down, left + right, &pixel);
    return inside ? batch_value(memory, p->x, f16, pixel, channel) : 0.0f;
}

INLINE void finish_value(char *memory, const Training *p, const Lattice *l, const int kind, const int f16, const int row,
                         const int column, const float sum) {
    if (kind == WEIGHTS) {
        const long long columns = (long long)p->kernel * p->kernel * p->x.c;
        float *to = array_of(memory, p, 0) + ((long long)blockIdx.z * p->z.c + row) * columns + column;
        *to = p->add ? *to + sum : sum;
        return;
    }
    const int area = l->high * l->wide, image = row / area, y = (row - image * area) / l->wide;
    const int x = row - image * area - y * l->wide, s = kind == DATA ? p->stride : 1;
    int pixel;
    pixel_at(p->y, image, l->first_y + y * s, l->first_x + x * s, &pixel);
    put(memory, p->y, f16, p->add, pixel, column, p->has_bias ? sum + array_of(memory, p, 1)[column] : sum);
}

// A block of (MOST * columns / 16) threads computes a tile of MOST rows, each thread 16 values; while it multiplies,
// the next slice of the depth is on its way from memory. On tensors in f16 the tensor cores multiply, on pairs of the
// depth.
INLINE void train_product(char *memory, const Training *p, const int kind, const int f16, const int columns) {
    __shared__ __align__(16) float a[SLICE][MOST + 4];
    __shared__ __align__(16) float b[SLICE][MOST + 4];
    __shared__ __align__(16) unsigned pairs_a[MOST][SLICE / 2 + 4];
    __shared__ __align__(16) unsigned pairs_b[MOST][SLICE / 2 + 4];
    const int threads = MOST * columns / 16, t = (int)threadIdx.x;
    const Lattice l = lattice_of(p, kind);
    const int height = kind == WEIGHTS ? p->z.c : p->y.n * l.high * l.wide;
    const int width = kind == WEIGHTS ? p->kernel * p->kernel * p->x.c : p->y.c;
    const int first_row = (int)blockIdx.x * MOST, first_column = (int)blockIdx.y * columns;
    // The grid is that of the largest residue; one of a side below the stride has no pixels.
    if (first_row >= height) return;
    int start = 0, depth = l.down * l.right * p->x.c;
    const int whole = depth;
    if (kind == WEIGHTS) {
        start = (int)blockIdx.z * p->rows;
        depth = pixels_of(p->z) - start < p->rows ? pixels_of(p->z) : start + p->rows;
    }
    // What a thread fetches of a slice: `step` values of the depth at a time, along the axis that lies contiguous.
    const int step = f16 ? 2 : 1, units = SLICE / step;
    const int deep_a = kind != WEIGHTS, deep_b = kind == FORWARD;
    const int unit_a = deep_a ? t % units : t / MOST, unit_b = deep_b ? t % units : t / columns;
    const int row_a = deep_a ? t / units : t % MOST, column_b = deep_b ? t / units : t % columns;
    const int apart_a = threads / (deep_a ? units : MOST), apart_b = threads / (deep_b ? units : columns);
    const int fetches_a = MOST * units / threads, fetches_b = columns * units / threads;
    Corner corners[16];
    if (deep_a)
#pragma unroll
        for (int i = 0; i < fetches_a; i++) corners[i] = corner_of(p, &l, kind, first_row + row_a + i * apart_a);
    float next_a[16], next_b[4], sums[4][4];
    unsigned fragments[4][4];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sums[i][j] = 0.0f, fragments[i][j] = 0;
    const int top = t / (columns / 4) * 4, left = t % (columns / 4) * 4;
    // Tensor cores: a warp has 16 x 32 of the tile, or 32 x 16 of one that is narrow.
    const int lane = t % 32, warp = t / 32, wide = columns == 64;
    const int warp_row = wide ? warp / 2 * 16 : warp * 32, warp_column = wide ? warp % 2 * 32 : 0;
    for (int k0 = start; k0 < depth + SLICE; k0 += SLICE) {
        if (k0 < depth) {
#pragma unroll
            for (int i = 0; i < fetches_a; i++)
#pragma unroll
                for (int e = 0; e < step; e++) {
                    const int row = first_row + row_a + (deep_a ? i * apart_a : 0);
                    const int k = k0 + (unit_a + (deep_a ? 0 : i * apart_a)) * step + e;
                    float value = 0.0f;
                    if (row < height && k < depth)
                        value = kind == WEIGHTS ? batch_value(memory, p->z, f16, k, row)
                                                : window_value(memory, p, &l, kind, f16, corners[i], k);
                    next_a[i * step + e] = value;
                }
#pragma unroll
            for (int i = 0; i < fetches_b; i++)
#pragma unroll
                for (int e = 0; e < step; e++) {
                    const int column = first_column + column_b + (deep_b ? i * apart_b : 0);
                    const int k = k0 + (unit_b + (deep_b ? 0 : i * apart_b)) * step + e;
                    float value = 0.0f;
                    if (column < width && k < depth)
                        value = kind == WEIGHTS ? shifted_value(memory, p, f16, column, k)
                                                : weight_value(array_of(memory, p, 0), p, &l, kind, whole, k, column);
                    next_b[i * step + e] = value;
                }
        }
        if (k0 > start) {
            if (f16) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int row = warp_row + (wide ? 0 : i / 2 * 16) + lane / 4;
                    const int column = warp_column + (wide ? i : i % 2) * 8 + lane / 4, at = lane % 4;
                    const unsigned x[4] = {pairs_a[row][at], pairs_a[row + 8][at], pairs_a[row][at + 4],
                                           pairs_a[row + 8][at + 4]};
                    const unsigned y[2] = {pairs_b[column][at], pairs_b[column][at + 4]};
                    multiply_f16(fragments[i], x, y);
                }
            } else {
#pragma unroll
                for (int k = 0; k < SLICE; k++) {
                    const float4 x = *(const float4 *)&a[k][top];
                    const float4 y = *(const float4 *)&b[k][left];
                    const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
                    for (int i = 0; i < 4; i++)
#pragma unroll
                        for (int j = 0; j < 4; j++) sums[i][j] += xs[i] * ys[j];
                }
            }
            __syncthreads();
        }
        if (k0 < depth) {
#pragma unroll
            for (int i = 0; i < fetches_a; i++) {
                const int row = row_a + (deep_a ? i * apart_a : 0), unit = unit_a + (deep_a ? 0 : i * apart_a);
                if (f16)
                    pairs_a[row][unit] = pack_f16(next_a[2 * i], next_a[2 * i + 1]);
                else
                    a[unit][row] = next_a[i];
            }
#pragma unroll
            for (int i = 0; i < fetches_b; i++) {
                const int column = column_b + (deep_b ? i * apart_b : 0), unit = unit_b + (deep_b ? 0 : i * apart_b);
                if (f16)
                    pairs_b[column][unit] = pack_f16(next_b[2 * i], next_b[2 * i + 1]);
                else
                    b[unit][column] = next_b[i];
            }
            __syncthreads();
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int row = first_row + top + i, column = first_column + left + j;
            if (f16) {
                row = first_row + warp_row + (wide ? 0 : i / 2 * 16) + lane / 4 + j / 2 * 8;
                column = first_column + warp_column + (wide ? i : i % 2) * 8 + lane % 4 * 2 + j % 2;
            }
            if (row < height && column < width)
                finish_value(memory, p, &l, kind, f16, row, column, f16 ? as_float(fragments[i][j]) : sums[i][j]);
        }
}

INLINE void train_conv_64(char *memory, const Training *p, const int f16) {
    train_product(memory, p, FORWARD, f16, 64);
}
INLINE void train_conv_16(char *memory, const Training *p, const int f16) {
    train_product(memory, p, FORWARD, f16, 16);
}
INLINE void train_conv_data_64(char *memory, const Training *p, const int f16) {
    train_product(memory, p, DATA, f16, 64);
}
INLINE void train_conv_data_16(char *memory, const Training *p, const int f16) {
    train_product(memory, p, DATA, f16, 16);
}
INLINE void train_conv_weights_64(char *memory, const Training *p, const int f16) {
    train_product(memory, p, WEIGHTS, f16, 64);
}
INLINE void train_conv_weights_16(char *memory, const Training *p, const int f16) {
    train_product(memory, p, WEIGHTS, f16, 16);
}
BOTH(256, train_conv_64)
BOTH(64, train_conv_16)
BOTH(256, train_conv_data_64)
BOTH(64, train_conv_data_16)
BOTH(256, train_conv_weights_64)
BOTH(64, train_conv_weights_16)

// Depthwise convolution: every channel by itself, kernel [c][tap].
INLINE void train_depthwise(char *memory, const Training *p, const int f16) {
    int pixel, channel, image, y, x, from;
    if (!own_value(p->y, &pixel, &channel)) return;
    place_of(p->y, pixel, &image, &y, &x);
    const float *weights = array_of(memory, p, 0) + (long long)channel * p->kernel * p->kernel;
    float sum = p->has_bias ? array_of(memory, p, 1)[channel] : 0.0f;
    for (int down = 0; down < p->kernel; down++)
        for (int right = 0; right < p->kernel; right++)
            if (pixel_at(p->x, image, y * p->stride - p->padding + down, x * p->stride - p->padding + right, &from))
                sum += batch_value(memory, p->x, f16, from, channel) * weights[down * p->kernel + right];
    put(memory, p->y, f16, 0, pixel, channel, sum);
}
BOTH(BLOCK, train_depthwise)

// The gradient y of its input, from the gradient x of its output.
INLINE void train_depthwise_data(char *memory, const Training *p, const int f16) {
    int pixel, channel, image, y, x, from;
    if (!own_value(p->y, &pixel, &channel)) return;
    place_of(p->y, pixel, &image, &y, &x);
    const float *weights = array_of(memory, p, 0) + (long long)channel * p->kernel * p->kernel;
    float sum = 0.0f;
    for (int down = 0; down < p->kernel; down++)
        for (int right = 0; right < p->kernel; right++) {
            const int over = y + p->padding - down, along = x + p->padding - right;
            if (over < 0 || along < 0 || over % p->stride || along % p->stride) continue;
            if (pixel_at(p->x, image, over / p->stride, along / p->stride, &from))
                sum += batch_value(memory, p->x, f16, from, channel) * weights[down * p->kernel + right];
        }
    put(memory, p->y, f16, p->add, pixel, channel, sum);
}
BOTH(BLOCK, train_depthwise_data)

// The gradient of its kernel: 32 channels and one tap a block, 8 threads for each; parts as those of WEIGHTS.
INLINE void train_depthwise_weights(char *memory, const Training *p, const int f16) {
    __shared__ float parts[8][32];
    const int lane = (int)threadIdx.x % 32, row = (int)threadIdx.x / 32, channel = (int)blockIdx.x * 32 + lane;
    const int taps = p->kernel * p->kernel, tap = (int)blockIdx.z, first = (int)blockIdx.y * p->rows;
    const int last = pixels_of(p->z) - first < p->rows ? pixels_of(p->z) : first + p->rows;
    float sum = 0.0f;
    if (channel < p->z.c)
        for (int pixel = first + row; pixel < last; pixel += 8)
            sum += batch_value(memory, p->z, f16, pixel, channel) *
                   shifted_value(memory, p, f16, tap * p->x.c + channel, pixel);
    parts[row][lane] = sum;
    __syncthreads();
    if (row > 0 || channel >= p->z.c) return;
    for (int other = 1; other < 8; other++) sum += parts[other][lane];
    array_of(memory, p, 0)[((long long)blockIdx.y * p->z.c + channel) * taps + tap] = sum;
}
BOTH(BLOCK, train_depthwise_weights)

// Sums up parts of `count` values each in their order: array 0 to array 1.
KERNEL(BLOCK) train_add_up(TRAINING) {
    const long long index = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (index >= p.count) return;
    const float *parts = array_of(memory, &p, 0);
    float *to = array_of(memory, &p, 1) + index, sum = 0.0f;
    for (int part = 0; part < p.splits; part++) sum += parts[part * p.count + index];
    *to = p.add ? *to + sum : sum;
}
