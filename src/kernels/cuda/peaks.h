// What the device can do at most: multiply-adds in registers, nothing else. `kernel` rounds of 8 chains a thread or warp.
#include "attention.h"

// Written only if a sum is what none of them becomes, so that the compiler must compute them.
INLINE void write_sum(char *memory, const Arguments *p, const float sum) {
    if (sum == -1.0f) *(float *)(memory + p->dst.at) = sum;
}
KERNEL(128) peak_f32(char *memory, ARGUMENTS) {
    float sums[8];
    UNROLL for (int i = 0; i < 8; i++) sums[i] = (float)(threadIdx.x + (unsigned)i);
    for (int round = 0; round < p.kernel; round++)
        UNROLL for (int i = 0; i < 8; i++) sums[i] = sums[i] * 0.5f + 1.0f;
    UNROLL for (int i = 1; i < 8; i++) sums[0] += sums[i];
    write_sum(memory, &p, sums[0]);
}
INLINE void multiply_chains(char *memory, const Arguments *p, const int kind) {
    unsigned sums[8][4], a[4], b[2];
    UNROLL for (int e = 0; e < 4; e++) a[e] = threadIdx.x;
    b[0] = b[1] = threadIdx.x;
    UNROLL for (int i = 0; i < 8; i++) UNROLL for (int e = 0; e < 4; e++) sums[i][e] = 0;
    for (int round = 0; round < p->kernel; round++)
        UNROLL for (int i = 0; i < 8; i++) {
            if (kind == INT8)
                multiply_int8(sums[i], a, b);
            else
                multiply_f16(sums[i], a, b);
        }
    float sum = 0.0f;
    UNROLL for (int i = 0; i < 8; i++) sum += kind == INT8 ? (float)(int)sums[i][0] : as_float(sums[i][0]);
    write_sum(memory, p, sum);
}
KERNEL(128) peak_f16(char *memory, ARGUMENTS) { multiply_chains(memory, &p, F16); }
KERNEL(128) peak_int8(char *memory, ARGUMENTS) { multiply_chains(memory, &p, INT8); }
