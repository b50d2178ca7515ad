// Samples of the regressions of a convolution, and the sums of their products: second moments of what it reads and
// finds.
//
// A sample is a position of the convolution's output. Its inputs are the window of x there, [channel][tap], zeros
// outside the image; its outputs are channels of z there. A regression is a lane: a dense convolution has one over all
// channels of x, a depthwise one has `heads` of one channel each. y.c columns of a lane are its inputs and then its
// outputs.
//
// Arrays: 0 the positions, 1 pivots [lane][column], which are subtracted, 2 the channels of the outputs [lane][output],
// 3 what is computed: values in f32, or sums in f64.
#pragma once
#include "tensors.h"

typedef struct {
    int image, y, x;
    float root;  // of the weight
} Position;

// A column of a lane: a channel of z, or one of x and a tap.
typedef struct {
    int channel, down, right;
    int is_output, exists;
} Column;

INLINE int inputs_of(const Training *p) { return p->x.c / p->heads * p->kernel * p->kernel; }

INLINE Column sample_column(char *memory, const Training *p, const int lane, const int column) {
    const int inputs = inputs_of(p), taps = p->kernel * p->kernel, within = column / taps, tap = column - within * taps;
    Column c = {lane * (p->x.c / p->heads) + within, tap / p->kernel, tap % p->kernel, column >= inputs, 0};
    c.exists = column < p->y.c;
    if (c.is_output && c.exists)
        c.channel = ((const int *)array_of(memory, p, 2))[(long long)lane * (p->y.c - inputs) + column - inputs];
    return c;
}

INLINE float pivot_of(char *memory, const Training *p, const int lane, const int column) {
    return column < p->y.c ? array_of(memory, p, 1)[(long long)lane * p->y.c + column] : 0.0f;
}

INLINE Position position_of(char *memory, const Training *p, const long long number) {
    return ((const Position *)array_of(memory, p, 0))[number];
}

INLINE float sample_value(const char *memory, const Training *p, const Column c, const Position at) {
    const int top = at.y * p->stride - p->padding, left = at.x * p->stride - p->padding;
    int pixel;
    if (c.is_output) {
        pixel_at(p->z, at.image, at.y, at.x, &pixel);
        return batch_value(memory, p->z, 0, pixel, c.channel);
    }
    const int inside = pixel_at(p->x, at.image, top + c.down, left + c.right, &pixel);
    return inside ? batch_value(memory, p->x, 0, pixel, c.channel) : 0.0f;
}

// Samples as they are, [lane][column][position]: a thread for each.
KERNEL(BLOCK) train_sample_values(TRAINING) {
    const long long index = (long long)blockIdx.x * BLOCK + threadIdx.x, number = index / p.count;
    if (number >= (long long)p.heads * p.y.c) return;
    const int lane = (int)(number / p.y.c);
    const Column c = sample_column(memory, &p, lane, (int)(number - (long long)lane * p.y.c));
    array_of(memory, &p, 3)[index] = sample_value(memory, &p, c, position_of(memory, &p, index - number * p.count));
}

// Weighted sums of samples less their pivots, [lane][column]: a block for each, on blockIdx.x and y.
KERNEL(BLOCK) train_sample_sums(TRAINING) {
    __shared__ double parts[BLOCK];
    const int t = (int)threadIdx.x, column = (int)blockIdx.x, lane = (int)blockIdx.y;
    const Column c = sample_column(memory, &p, lane, column);
    const float pivot = pivot_of(memory, &p, lane, column);
    double sum = 0.0;
    for (long long k = t; k < p.count; k += BLOCK) {
        const Position at = position_of(memory, &p, k);
        sum += (double)((sample_value(memory, &p, c, at) - pivot) * at.root) * (double)at.root;
    }
    parts[t] = sum;
    __syncthreads();
    for (int half = BLOCK / 2; half > 0; half /= 2) {
        if (t < half) parts[t] += parts[t + half];
        __syncthreads();
    }
    if (t > 0) return;
    double *to = (double *)array_of(memory, &p, 3) + (long long)lane * p.y.c + column;
    *to = p.add ? *to + parts[0] : parts[0];
}

// Weighted sums of products of samples less their pivots, [split][lane][input][column], of inputs with inputs only
// where the second is not before the first. A block computes a tile of MOST x MOST over the `rows` positions of a
// split, each thread 4 x 4 values; RUN positions are added up in f32, runs in f64, as src/repair/samples.rs does. While
// it multiplies, the next slice is on its way from memory.
#define RUN 512

KERNEL(BLOCK) train_sample_products(TRAINING) {
    __shared__ __align__(16) float a[SLICE][MOST + 4];
    __shared__ __align__(16) float b[SLICE][MOST + 4];
    const int t = (int)threadIdx.x, first_row = (int)blockIdx.x * MOST, first_column = (int)blockIdx.y * MOST;
    // Below the diagonal.
    if (first_column < first_row) return;
    const int split = (int)blockIdx.z / p.heads, lane = (int)blockIdx.z - split * p.heads, inputs = inputs_of(&p);
    const int start = split * p.rows, end = (int)(p.count - start < p.rows ? p.count : start + p.rows);
    // Every thread fetches always the same column, at several positions.
    const int own = t % MOST, first = t / MOST, apart = BLOCK / MOST;
    const int row_a = first_row + own, column_b = first_column + own;
    const Column of_a = sample_column(memory, &p, lane, row_a), of_b = sample_column(memory, &p, lane, column_b);
    const float pivot_a = pivot_of(memory, &p, lane, row_a), pivot_b = pivot_of(memory, &p, lane, column_b);
    const int top = t / (MOST / 4) * 4, left = t % (MOST / 4) * 4;
    float next_a[SLICE * MOST / BLOCK], next_b[SLICE * MOST / BLOCK], sums[4][4];
    double totals[4][4];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sums[i][j] = 0.0f, totals[i][j] = 0.0;
    for (int k0 = start; k0 < end + SLICE; k0 += SLICE) {
        if (k0 < end) {
#pragma unroll
            for (int i = 0; i < SLICE * MOST / BLOCK; i++) {
                const int k = k0 + first + i * apart;
                next_a[i] = 0.0f, next_b[i] = 0.0f;
                if (k >= end) continue;
                const Position at = position_of(memory, &p, k);
                if (!of_a.is_output) next_a[i] = (sample_value(memory, &p, of_a, at) - pivot_a) * at.root;
                if (of_b.exists) next_b[i] = (sample_value(memory, &p, of_b, at) - pivot_b) * at.root;
            }
        }
        if (k0 > start) {
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
            if ((k0 - start) % RUN == 0 || k0 >= end)
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) totals[i][j] += (double)sums[i][j], sums[i][j] = 0.0f;
        }
        if (k0 < end) {
#pragma unroll
            for (int i = 0; i < SLICE * MOST / BLOCK; i++) {
                a[first + i * apart][own] = next_a[i];
                b[first + i * apart][own] = next_b[i];
            }
            __syncthreads();
        }
    }
    double *to = (double *)array_of(memory, &p, 3) + (long long)blockIdx.z * inputs * p.y.c;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = first_row + top + i;
        if (row >= inputs) continue;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int column = first_column + left + j;
            if (column >= p.y.c) continue;
            double *sum = to + (long long)row * p.y.c + column;
            *sum = p.add ? *sum + totals[i][j] : totals[i][j];
        }
    }
}
