// Tensors of a training step, and the arguments of its kernels.
//
// Tensors are batches, pixel after pixel: image, row, column, channel. Their values are f32 or f16, which is a
// compile-time constant of every kernel; parameters, statistics, gradients of parameters and partial sums are arrays in
// f32. Kernels are stored as [c_out][tap][c_in]. All sums have a fixed order: no atomic operation adds.
#pragma once

typedef struct {
    long long at;  // first byte
    int pitch;     // values from one pixel to the next
    int c, n, h, w;
    int unused;
} Batch;

typedef struct {
    Batch x, y, z;
    long long arrays[8];  // first byte of each
    long long count;      // values of an array
    int kernel, stride, padding, act;
    int factor, heads, key_dim, head_dim;
    int areas, add, splits, rows;
    int has_bias, rule;
    float scale, eps, momentum, decay, shrink;
    int given;  // whether statistics are given, and not those of the batch
    // Of a loss: sides of the images, cells of an image and the first of a level, room for objects of an image, bins of a
    // side, cells that an object chooses, whether it keeps one only, and whether there is a teacher.
    int height, width, cells, first, objects, bins, top, keep, taught, unused;
} Training;

#define TRAINING char *memory, const GRID_CONSTANT Training p
// Both instances of a kernel: on tensors in f32 and in f16.
#define BOTH(threads, name)                                                  \
    KERNEL(threads) name##_f32(TRAINING) { name(memory, &p, 0); }            \
    KERNEL(threads) name##_f16(TRAINING) { name(memory, &p, 1); }

// What the host says of a step: `arrays[6]` of the kernels that read it.
enum { RATE, FIRST_CORRECTION, SECOND_CORRECTION, EMA_SHARE, UNSCALE, CLIP, LOSS_SCALE };
// What the host learns of a step.
enum { NORM, IS_FINITE };

INLINE float batch_value(const char *memory, const Batch t, const int f16, const long long pixel, const int channel) {
    const long long i = pixel * t.pitch + channel;
    return f16 ? low_f16(((const unsigned short *)(memory + t.at))[i]) : ((const float *)(memory + t.at))[i];
}

// Writes a value, or adds it to what is there.
INLINE void put(char *memory, const Batch t, const int f16, const int add, const long long pixel, const int channel,
                const float value) {
    const long long i = pixel * t.pitch + channel;
    if (f16) {
        unsigned short *to = (unsigned short *)(memory + t.at) + i;
        *to = (unsigned short)pack_f16(add ? low_f16(*to) + value : value, 0.0f);
    } else {
        float *to = (float *)(memory + t.at) + i;
        *to = add ? *to + value : value;
    }
}

INLINE float *array_of(char *memory, const Training *p, const int number) { return (float *)(memory + p->arrays[number]); }

INLINE int pixels_of(const Batch t) { return t.n * t.h * t.w; }

// The value of a tensor that is this thread's own, channels first; false where there is none.
INLINE int own_value(const Batch t, int *pixel, int *channel) {
    const long long index = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (index >= (long long)pixels_of(t) * t.c) return 0;
    *pixel = (int)(index / t.c);
    *channel = (int)(index - (long long)*pixel * t.c);
    return 1;
}

// The pixel (y, x) of an image; false outside it.
INLINE int pixel_at(const Batch t, const int image, const int y, const int x, int *pixel) {
    *pixel = (image * t.h + y) * t.w + x;
    return y >= 0 && y < t.h && x >= 0 && x < t.w;
}

// Image, row and column of a pixel.
INLINE void place_of(const Batch t, const int pixel, int *image, int *y, int *x) {
    const int row = pixel / t.w;
    *x = pixel - row * t.w;
    *image = row / t.h;
    *y = row - *image * t.h;
}

// The derivative of an activation.
INLINE float slope(const int act, const float x) {
    if (act == 1) {
        const float s = 1.0f / (1.0f + expf(-x));
        return s * (1.0f + x * (1.0f - s));
    }
    return act == 2 ? (x > 0.0f ? 1.0f : 0.0f) : 1.0f;
}
