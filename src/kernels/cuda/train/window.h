// What moves, picks or averages values: pools, upsampling, sums, copies, and the planes of images and outputs. Gradients
// go the other way: y is the gradient of the input, x that of the output, and `add` says whether y has other parts.
#pragma once
#include "tensors.h"

// Maximum over a window; array 0 (two bytes a value) keeps which tap it is, of equals the first.
INLINE void train_max_pool(char *memory, const Training *p, const int f16) {
    int pixel, channel, image, y, x, from, best_tap = 0;
    if (!own_value(p->y, &pixel, &channel)) return;
    place_of(p->y, pixel, &image, &y, &x);
    float best = -INFINITY;
    int found = 0;
    for (int down = 0; down < p->kernel; down++)
        for (int right = 0; right < p->kernel; right++) {
            if (!pixel_at(p->x, image, y * p->stride - p->padding + down, x * p->stride - p->padding + right, &from)) continue;
            const float value = batch_value(memory, p->x, f16, from, channel);
            if (!found || value > best) best = value, best_tap = down * p->kernel + right;
            found = 1;
        }
    put(memory, p->y, f16, 0, pixel, channel, best);
    ((unsigned short *)(memory + p->arrays[0]))[(long long)pixel * p->y.c + channel] = (unsigned short)best_tap;
}
BOTH(BLOCK, train_max_pool)

INLINE void train_max_pool_backward(char *memory, const Training *p, const int f16) {
    int pixel, channel, image, y, x, from;
    if (!own_value(p->y, &pixel, &channel)) return;
    place_of(p->y, pixel, &image, &y, &x);
    const unsigned short *taps = (const unsigned short *)(memory + p->arrays[0]);
    float sum = 0.0f;
    // In the order of the windows.
    for (int down = p->kernel - 1; down >= 0; down--)
        for (int right = p->kernel - 1; right >= 0; right--) {
            const int over = y + p->padding - down, along = x + p->padding - right;
            if (over < 0 || along < 0 || over % p->stride || along % p->stride) continue;
            if (!pixel_at(p->x, image, over / p->stride, along / p->stride, &from)) continue;
            if (taps[(long long)from * p->x.c + channel] == down * p->kernel + right) sum += batch_value(memory, p->x, f16, from, channel);
        }
    put(memory, p->y, f16, p->add, pixel, channel, sum);
}
BOTH(BLOCK, train_max_pool_backward)

INLINE void train_average_pool(char *memory, const Training *p, const int f16) {
    int pixel, channel, image, y, x, from;
    if (!own_value(p->y, &pixel, &channel)) return;
    place_of(p->y, pixel, &image, &y, &x);
    float sum = 0.0f;
    for (int down = 0; down < p->kernel; down++)
        for (int right = 0; right < p->kernel; right++) {
            pixel_at(p->x, image, y * p->stride + down, x * p->stride + right, &from);
            sum += batch_value(memory, p->x, f16, from, channel);
        }
    put(memory, p->y, f16, 0, pixel, channel, sum / (float)(p->kernel * p->kernel));
}
BOTH(BLOCK, train_average_pool)

INLINE void train_average_pool_backward(char *memory, const Training *p, const int f16) {
    int pixel, channel, image, y, x, from;
    if (!own_value(p->y, &pixel, &channel)) return;
    place_of(p->y, pixel, &image, &y, &x);
    float sum = 0.0f;
    for (int down = 0; down < p->kernel && down <= y; down++)
        for (int right = 0; right < p->kernel && right <= x; right++) {
            if ((y - down) % p->stride || (x - right) % p->stride) continue;
            if (pixel_at(p->x, image, (y - down) / p->stride, (x - right) / p->stride, &from))
                sum += batch_value(memory, p->x, f16, from, channel);
        }
    put(memory, p->y, f16, p->add, pixel, channel, sum / (float)(p->kernel * p->kernel));
}
BOTH(BLOCK, train_average_pool_backward)

// Mean over all positions: 32 channels of an image a block, 8 threads for each.
INLINE void train_global_average(char *memory, const Training *p, const int f16) {
    __shared__ float parts[8][32];
    const int lane = (int)threadIdx.x % 32, row = (int)threadIdx.x / 32, image = (int)blockIdx.y;
    const int channel = (int)blockIdx.x * 32 + lane, area = p->x.h * p->x.w;
    float sum = 0.0f;
    if (channel < p->x.c)
        for (int i = row; i < area; i += 8) sum += batch_value(memory, p->x, f16, (long long)image * area + i, channel);
    parts[row][lane] = sum;
    __syncthreads();
    if (row > 0 || channel >= p->x.c) return;
    for (int other = 1; other < 8; other++) sum += parts[other][lane];
    put(memory, p->y, f16, 0, image, channel, sum / (float)area);
}
BOTH(BLOCK, train_global_average)

INLINE void train_global_average_backward(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (!own_value(p->y, &pixel, &channel)) return;
    const int area = p->y.h * p->y.w;
    put(memory, p->y, f16, p->add, pixel, channel, batch_value(memory, p->x, f16, pixel / area, channel) / (float)area);
}
BOTH(BLOCK, train_global_average_backward)

// Nearest neighbour.
INLINE void train_upsample(char *memory, const Training *p, const int f16) {
    int pixel, channel, image, y, x, from;
    if (!own_value(p->y, &pixel, &channel)) return;
    place_of(p->y, pixel, &image, &y, &x);
    pixel_at(p->x, image, y / p->factor, x / p->factor, &from);
    put(memory, p->y, f16, 0, pixel, channel, batch_value(memory, p->x, f16, from, channel));
}
BOTH(BLOCK, train_upsample)

INLINE void train_upsample_backward(char *memory, const Training *p, const int f16) {
    int pixel, channel, image, y, x, from;
    if (!own_value(p->y, &pixel, &channel)) return;
    place_of(p->y, pixel, &image, &y, &x);
    float sum = 0.0f;
    for (int down = 0; down < p->factor; down++)
        for (int right = 0; right < p->factor; right++) {
            pixel_at(p->x, image, y * p->factor + down, x * p->factor + right, &from);
            sum += batch_value(memory, p->x, f16, from, channel);
        }
    put(memory, p->y, f16, p->add, pixel, channel, sum);
}
BOTH(BLOCK, train_upsample_backward)

// y = x, or y += x.
INLINE void train_copy(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (!own_value(p->y, &pixel, &channel)) return;
    put(memory, p->y, f16, p->add, pixel, channel, batch_value(memory, p->x, f16, pixel, channel));
}
BOTH(BLOCK, train_copy)

INLINE void train_zero(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (own_value(p->y, &pixel, &channel)) put(memory, p->y, f16, 0, pixel, channel, 0.0f);
}
BOTH(BLOCK, train_zero)

// z = x + y.
INLINE void train_add(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (!own_value(p->z, &pixel, &channel)) return;
    const float sum = batch_value(memory, p->x, f16, pixel, channel) + batch_value(memory, p->y, f16, pixel, channel);
    put(memory, p->z, f16, 0, pixel, channel, sum);
}
BOTH(BLOCK, train_add)

// The channel of a packed attention input that has a channel of the values.
INLINE int packed_value(const Training *p, const int channel) {
    return channel / p->head_dim * (2 * p->key_dim + p->head_dim) + 2 * p->key_dim + channel % p->head_dim;
}

INLINE void train_values(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (!own_value(p->y, &pixel, &channel)) return;
    put(memory, p->y, f16, 0, pixel, channel, batch_value(memory, p->x, f16, pixel, packed_value(p, channel)));
}
BOTH(BLOCK, train_values)

// The gradient y of the packed tensor, whose queries and keys have none.
INLINE void train_values_backward(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (!own_value(p->y, &pixel, &channel)) return;
    const int head = channel / (2 * p->key_dim + p->head_dim), within = channel - head * (2 * p->key_dim + p->head_dim);
    const int from = head * p->head_dim + within - 2 * p->key_dim;
    put(memory, p->y, f16, p->add, pixel, channel, within < 2 * p->key_dim ? 0.0f : batch_value(memory, p->x, f16, pixel, from));
}
BOTH(BLOCK, train_values_backward)

// Planes in f32, [image][channel][pixel] from y.at (x.at) on. `factor` multiplies with the scale of the loss.
INLINE long long in_planes(const Batch t, const int pixel, const int channel) {
    const int area = t.h * t.w, image = pixel / area;
    return ((long long)image * t.c + channel) * area + pixel - image * area;
}

INLINE void train_import(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (!own_value(p->y, &pixel, &channel)) return;
    const float value = ((const float *)(memory + p->x.at))[in_planes(p->x, pixel, channel)];
    put(memory, p->y, f16, p->add, pixel, channel, p->factor ? value * array_of(memory, p, 6)[LOSS_SCALE] : value);
}
BOTH(BLOCK, train_import)

INLINE void train_export(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (!own_value(p->x, &pixel, &channel)) return;
    ((float *)(memory + p->y.at))[in_planes(p->y, pixel, channel)] = batch_value(memory, p->x, f16, pixel, channel);
}
BOTH(BLOCK, train_export)
