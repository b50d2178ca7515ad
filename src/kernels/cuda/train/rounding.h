// The rounding of int8 in a training step: forward as layers in int8 compute (src/kernels/int8.rs), to the bit; backward as
// if nothing were rounded (straight-through estimator; Bengio et al., 2013), but what lies outside of an input's range gets
// no gradient.
//
// Arrays: 0 a kernel [rows][count], 1 what it becomes, 2 the steps of an input.
#pragma once
#include "tensors.h"

// The steps of an input. Without IS_ROUNDED the layer computes as it is: everything passes unchanged.
enum { IS_ROUNDED, STEP, STEPS_OF_ONE, LEAST_STEPS, MOST_STEPS };

INLINE void train_round(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (!own_value(p->x, &pixel, &channel)) return;
    const float *steps = array_of(memory, p, 2);
    float value = batch_value(memory, p->x, f16, pixel, channel);
    if (steps[IS_ROUNDED] != 0.0f) {
        const float at = multiply_rounded(value, steps[STEPS_OF_ONE]);
        value = multiply_rounded((float)round_to_int(fminf(fmaxf(at, steps[LEAST_STEPS]), steps[MOST_STEPS])), steps[STEP]);
    }
    put(memory, p->y, f16, 0, pixel, channel, value);
}
BOTH(BLOCK, train_round)

// The gradient z of x from the gradient y of what x became.
INLINE void train_round_backward(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (!own_value(p->x, &pixel, &channel)) return;
    const float *steps = array_of(memory, p, 2);
    const float at = multiply_rounded(batch_value(memory, p->x, f16, pixel, channel), steps[STEPS_OF_ONE]);
    const int passes = steps[IS_ROUNDED] == 0.0f || (at >= steps[LEAST_STEPS] && at <= steps[MOST_STEPS]);
    put(memory, p->z, f16, p->add, pixel, channel, passes ? batch_value(memory, p->y, f16, pixel, channel) : 0.0f);
}
BOTH(BLOCK, train_round_backward)

// The scale of weights up to `most`: the step of which 127 reach that, with 16 bits of mantissa.
INLINE float weight_scale(const float most) {
    const unsigned word = as_word(divide_rounded(most, 127.0f)) & ~0xffu;
    return as_float(multiply_rounded(as_float(word), 127.0f) < most ? word + 0x100u : word);
}

// A block for every row, which is the kernel of an output channel.
KERNEL(BLOCK) train_round_kernel(TRAINING) {
    __shared__ float parts[BLOCK];
    const int t = (int)threadIdx.x;
    const float *from = array_of(memory, &p, 0) + blockIdx.x * p.count;
    float *to = array_of(memory, &p, 1) + blockIdx.x * p.count, most = 0.0f;
    for (long long i = t; i < p.count; i += BLOCK) most = fmaxf(most, fabsf(from[i]));
    parts[t] = most;
    __syncthreads();
    for (int half = BLOCK / 2; half > 0; half /= 2) {
        if (t < half) parts[t] = fmaxf(parts[t], parts[t + half]);
        __syncthreads();
    }
    const float scale = weight_scale(parts[0]);
    const int rounds = array_of(memory, &p, 2)[IS_ROUNDED] != 0.0f;
    for (long long i = t; i < p.count; i += BLOCK) {
        float value = from[i];
        if (rounds) {
            const float steps = scale > 0.0f ? fminf(fmaxf(roundf(divide_rounded(value, scale)), -127.0f), 127.0f) : 0.0f;
            value = multiply_rounded(steps, scale);
        }
        to[i] = value;
    }
}
