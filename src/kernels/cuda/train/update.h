// From gradients to new parameters. All of them lie in one run of memory, their gradients, slots and averages in runs of
// the same order; a launch takes a part of these runs. A step whose gradient is not finite changes nothing.
//
// Arrays: 0 parameters, 1 gradients, 2 and 3 slots of the optimizer, 4 moving averages, 5 masks, 6 what the host says,
// 7 what it learns.
#pragma once
#include "tensors.h"

// Every block sums up the squares of `rows` gradients: array 1 to array 0.
KERNEL(BLOCK) train_squares(TRAINING) {
    __shared__ float parts[BLOCK];
    const int t = (int)threadIdx.x;
    const long long first = (long long)blockIdx.x * p.rows, last = first + p.rows < p.count ? first + p.rows : p.count;
    const float *gradients = array_of(memory, &p, 1);
    float sum = 0.0f;
    for (long long i = first + t; i < last; i += BLOCK) sum += gradients[i] * gradients[i];
    parts[t] = sum;
    __syncthreads();
    for (int half = BLOCK / 2; half > 0; half /= 2) {
        if (t < half) parts[t] += parts[t + half];
        __syncthreads();
    }
    if (t == 0) array_of(memory, &p, 0)[blockIdx.x] = parts[0];
}

// The norm of the gradient without the scale of the loss, from `splits` sums of squares.
KERNEL(32) train_norm_joined(TRAINING) {
    if (threadIdx.x > 0) return;
    double sum = 0.0;
    for (int part = 0; part < p.splits; part++) sum += array_of(memory, &p, 0)[part];
    const float norm = (float)sqrt(sum) * array_of(memory, &p, 6)[UNSCALE];
    float *results = array_of(memory, &p, 7);
    results[NORM] = norm, results[IS_FINITE] = norm <= 3.402823466e38f ? 1.0f : 0.0f;
}

// The rules of optimizers: SGD without and with Nesterov's momentum (decay is `momentum`, weight decay `decay`), AdamW
// (`scale` and `momentum` are its betas), none.
enum { SGD, NESTEROV, ADAM_W, NO_RULE };

// One step of every parameter, then the proximal step of an L1 penalty, masks, and the moving average.
KERNEL(BLOCK) train_step(TRAINING) {
    const long long i = (long long)blockIdx.x * BLOCK + threadIdx.x;
    const float *control = array_of(memory, &p, 6), *results = array_of(memory, &p, 7);
    if (i >= p.count || results[IS_FINITE] == 0.0f) return;
    float value = array_of(memory, &p, 0)[i];
    const float rate = control[RATE];
    if (p.rule != NO_RULE) {
        const float limit = control[CLIP] / (results[NORM] + 1e-6f);
        float gradient = array_of(memory, &p, 1)[i] * control[UNSCALE] * (limit < 1.0f ? limit : 1.0f);
        float *slot = array_of(memory, &p, 2) + i;
        if (p.rule == ADAM_W) {
            float *square = array_of(memory, &p, 3) + i;
            *slot = *slot * p.scale + gradient * (1.0f - p.scale);
            *square = *square * p.momentum + gradient * gradient * (1.0f - p.momentum);
            const float root = sqrtf(*square) * control[SECOND_CORRECTION];
            value = value * (1.0f - rate * p.decay) - *slot / (root + p.eps) * (rate * control[FIRST_CORRECTION]);
        } else {
            gradient += value * p.decay;
            *slot = *slot * p.momentum + gradient;
            value -= (p.rule == NESTEROV ? gradient + *slot * p.momentum : *slot) * rate;
        }
        if (p.shrink > 0.0f) {
            const float left = fabsf(value) - rate * p.shrink;
            value = left > 0.0f ? (value < 0.0f ? -left : left) : 0.0f;
        }
        if (p.add) value *= array_of(memory, &p, 5)[i];
        array_of(memory, &p, 0)[i] = value;
    }
    float *average = array_of(memory, &p, 4) + i;
    *average += control[EMA_SHARE] * (value - *average);
}
