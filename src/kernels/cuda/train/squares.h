// Squares of a gradient x: of every pixel the sum over its channels, of every channel that over the pixels.
//
// Arrays: 0 the sums of pixels [n][h][w], or those of the parts of every channel, which train_sums_joined joins.
#pragma once
#include "norm.h"

// A warp for every pixel.
KERNEL(BLOCK) train_pixel_squares(TRAINING) {
    const int pixel = (int)blockIdx.x * (BLOCK / 32) + (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int inside = pixel < pixels_of(p.x);
    float sum = 0.0f;
    for (int channel = lane; inside && channel < p.x.c; channel += 32) {
        const float value = batch_value(memory, p.x, 0, pixel, channel);
        sum += value * value;
    }
    for (int apart = 16; apart > 0; apart /= 2) sum += exchange_with(sum, apart);
    if (inside && lane == 0) array_of(memory, &p, 0)[pixel] = sum;
}

KERNEL(BLOCK) train_channel_squares(TRAINING) { sums_of_parts(memory, &p, 0, 1); }
