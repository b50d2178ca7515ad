// What the kernels on tensor cores need of an NVIDIA GPU since Ampere (sm_80, sm_87), each as one function: a dozen
// instructions of PTX (NVIDIA, "PTX ISA", warp-level matrix instructions and asynchronous copies). Compiled without
// nvcc, the same functions come from tests/cuda/emulate.h, which runs the kernels on the CPU.
#pragma once

#ifdef __CUDACC__
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
#define INLINE static __device__ __forceinline__
#define SHARED(name) extern __shared__ __align__(256) unsigned char name[]
// At least `blocks` of them at the same time on a multiprocessor: 768 threads leave each 85 registers.
#define KERNEL_OF(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define GRID_CONSTANT __grid_constant__
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")

// Address in shared memory, as the instructions below want it.
INLINE unsigned shared_address(const void *pointer) { return (unsigned)__cvta_generic_to_shared(pointer); }

// Hides from the compiler how a number came about, so that it stays in its register.
INLINE void keep(unsigned *number) { asm volatile("" : "+r"(*number)); }

// Starts a copy of 16 bytes to shared memory, past the L1; of `bytes` (0 or 16) from memory, the rest are zeros.
INLINE void copy16(const unsigned to, const void *from, const int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// What this thread copied since the last such call is a group.
INLINE void copies_end(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `left` groups of this thread are still on their way; `left` is a constant.
INLINE void copies_wait(const int left) {
    if (left == 0) asm volatile("cp.async.wait_group 0;" ::: "memory");
    if (left == 1) asm volatile("cp.async.wait_group 1;" ::: "memory");
    if (left == 2) asm volatile("cp.async.wait_group 2;" ::: "memory");
    if (left == 3) asm volatile("cp.async.wait_group 3;" ::: "memory");
    if (left == 4) asm volatile("cp.async.wait_group 4;" ::: "memory");
}

// Four matrices of 8 rows of 16 bytes: lane i names row i % 8 of matrix i / 8; every lane gets 4 bytes of each matrix,
// those of row lane / 4 from byte lane % 4 * 4 on.
INLINE void load_matrices4(unsigned r[4], const unsigned at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}
INLINE void load_matrices2(unsigned r[2], const unsigned at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at));
}
// As load_matrices4, every matrix transposed (its values have 2 bytes).
INLINE void load_matrices4_transposed(unsigned r[4], const unsigned at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

INLINE float as_float(const unsigned word) { return __uint_as_float(word); }
INLINE unsigned as_word(const float value) { return __float_as_uint(value); }

// c (16 x 8) += a (16 x 16) b (16 x 8), f16 values, summed in f32. Lane: g = lane / 4, t = lane % 4.
// a: {row g, 2t}, {row g + 8, 2t}, {row g, 8 + 2t}, {row g + 8, 8 + 2t}, two values each; b: {2t, column g}, {8 + 2t,
// column g}; c: {row g, columns 2t and 2t + 1}, {row g + 8, the same}.
INLINE void multiply_f16(unsigned c[4], const unsigned a[4], const unsigned b[2]) {
    float x = as_float(c[0]), y = as_float(c[1]), z = as_float(c[2]), w = as_float(c[3]);
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(x), "+f"(y), "+f"(z), "+f"(w)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    c[0] = as_word(x), c[1] = as_word(y), c[2] = as_word(z), c[3] = as_word(w);
}
// The same over bytes with a sign, a (16 x 32) b (32 x 8), summed in i32: in bytes the same layout.
INLINE void multiply_int8(unsigned c[4], const unsigned a[4], const unsigned b[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The value with 10 bits of mantissa that is nearest to an f32 one (of two equally near ones the larger).
INLINE unsigned nearest_tf32(const unsigned word) {
    unsigned nearest;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(nearest) : "f"(as_float(word)));
    return nearest;
}
// c (16 x 8) += a (16 x 8) b (8 x 8), f32 values of which the first 10 bits of the mantissa count: in bytes the same layout.
INLINE void multiply_tf32(unsigned c[4], const unsigned a[4], const unsigned b[2]) {
    float x = as_float(c[0]), y = as_float(c[1]), z = as_float(c[2]), w = as_float(c[3]);
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(x), "+f"(y), "+f"(z), "+f"(w)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    c[0] = as_word(x), c[1] = as_word(y), c[2] = as_word(z), c[3] = as_word(w);
}

// Two f16 values in a word, `low` in the lower half of it.
INLINE unsigned pack_f16(const float low, const float high) {
    unsigned word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
INLINE float low_f16(const unsigned word) {
    float value;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, a;}" : "=f"(value) : "r"(word));
    return value;
}
INLINE float high_f16(const unsigned word) {
    float value;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, b;}" : "=f"(value) : "r"(word));
    return value;
}
// The larger of each of two.
INLINE unsigned max_f16x2(const unsigned a, const unsigned b) {
    unsigned word;
    asm("max.f16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
    return word;
}
// a * b + c of each of two.
INLINE unsigned fma_f16x2(const unsigned a, const unsigned b, const unsigned c) {
    unsigned word;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(word) : "r"(a), "r"(b), "r"(c));
    return word;
}
// Four integers as int8, saturated.
INLINE unsigned pack_int8(const int a, const int b, const int c, const int d) {
    unsigned high, word;
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(high) : "r"(d), "r"(c), "r"(0));
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(word) : "r"(b), "r"(a), "r"(high));
    return word;
}
// To the nearest integer, ties to even.
INLINE int round_to_int(const float x) { return __float2int_rn(x); }
// Product and sum, each rounded: never one fused operation.
INLINE float multiply_rounded(const float a, const float b) { return __fmul_rn(a, b); }
INLINE float add_rounded(const float a, const float b) { return __fadd_rn(a, b); }
INLINE float divide_rounded(const float a, const float b) { return __fdiv_rn(a, b); }
// c + the products of four bytes with a sign.
INLINE int add_products_int8(const unsigned a, const unsigned b, const int c) { return __dp4a((int)a, (int)b, c); }
INLINE float approximate_tanh(const float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
INLINE float approximate_exp2(const float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
INLINE int count_bits(const unsigned word) { return __popc(word); }
INLINE unsigned high_product(const unsigned a, const unsigned b) { return __umulhi(a, b); }
INLINE float exchange_with(const float x, const int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
#define WARP_BARRIER() __syncwarp()
#define BARRIER() __syncthreads()
#elif !defined(KERNEL)
#error "without nvcc, tests/cuda/driver.c comes first"
#endif
