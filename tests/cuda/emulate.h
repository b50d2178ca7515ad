// The functions of src/kernels/cuda/device.h on the CPU, and the threads of a block: right results, meaningless times.
//
// The threads run as fibres, one after the other up to the next barrier or collective function of a warp, which is
// computed once its 32 lanes wait for it. Their order turns round from barrier to barrier and from block to block,
// asynchronous copies arrive either at once or not before they are waited for, and shared memory starts as NaN and ends
// at a page that cannot be touched: what is not synchronised, or lies outside, shows as a wrong result.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline, unused))
#define __launch_bounds__(threads)
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __syncthreads barrier
#define KERNEL(threads) static void
#define KERNEL_OF(threads, blocks) static void
#define INLINE static __device__ __forceinline__
#define GRID_CONSTANT
#define UNROLL
#define ROLLED
#define BARRIER barrier
#define WARP_BARRIER warp_barrier

typedef struct {
    unsigned x, y, z;
} Index;
typedef struct {
    float x, y, z, w;
} float4;
typedef struct {
    unsigned x, y;
} uint2;
typedef struct {
    unsigned x, y, z, w;
} uint4;
static inline uint2 make_uint2(unsigned x, unsigned y) { return (uint2){x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return (uint4){x, y, z, w}; }

static Index threadIdx, blockIdx;
// Dynamic shared memory of the block.
static unsigned char *shared;

#define MOST_THREADS 256
#define STACK (64 << 10)
// What every launch may take.
#define MOST_SHARED (48u << 10)
#define MOST_COPIES 512

enum State { RUNNING, AT_WARP, AT_BLOCK, ENDED };
enum Collective { SYNC, LOAD, LOAD_TRANSPOSED, MULTIPLY_F16, MULTIPLY_INT8, MULTIPLY_TF32, EXCHANGE };
typedef struct {
    unsigned to;
    const void *from;
    int bytes, group;
} Copy;
// What a thread waits for, and what it gave for it.
typedef struct {
    enum State state;
    enum Collective what;
    int count;
    unsigned word, *to;
    const unsigned *a, *b;
    int copies, group;
    jmp_buf wait;
} Thread;

static struct {
    void (*kernel)(char *, const void *);
    char *memory;
    const void *arguments;
    unsigned threads, begun, finished;
    int backwards, wrong;
    unsigned shared_bytes;
    // The fibre that runs, and the thread in it.
    int fibre, fibres, current;
    jmp_buf scheduler, idle[MOST_THREADS];
    unsigned long long random;
} block;
static Thread threads_of_block[MOST_THREADS];
static Copy copies_of[MOST_THREADS][MOST_COPIES];
static char *stacks;
static float f16_values[1 << 16];

static unsigned next_random(void) {
    block.random = block.random * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(block.random >> 33);
}

// ---------------------------------------------------------------------------------------------------------------------
// Threads.

// Runs threads of the block that nobody has begun, one after the other, until one waits; then waits for the next block.
static void fibre(void) {
    const int own = block.fibre;
    for (;;) {
        while (block.begun < block.threads) {
            const unsigned turn = block.begun++;
            block.current = (int)(block.backwards ? block.threads - 1 - turn : turn);
            threads_of_block[block.current].state = RUNNING;
            threadIdx.x = (unsigned)block.current;
            block.kernel(block.memory, block.arguments);
            threads_of_block[block.current].state = ENDED;
            block.finished++;
        }
        if (!_setjmp(block.idle[own])) _longjmp(block.scheduler, 1);
    }
}

static __attribute__((noinline)) void wait_for(enum State state) {
    const int own = block.current;
    threads_of_block[own].state = state;
    if (!_setjmp(threads_of_block[own].wait)) _longjmp(block.scheduler, 1);
    threadIdx.x = (unsigned)block.current;
}
static void barrier(void) { wait_for(AT_BLOCK); }

static __attribute__((noinline)) void resume(int thread) {
    block.current = thread;
    threads_of_block[thread].state = RUNNING;
    if (!_setjmp(block.scheduler)) _longjmp(threads_of_block[thread].wait, 1);
}

static __attribute__((noinline)) void start(int number) {
    static ucontext_t context;
    block.fibre = number;
    if (number < block.fibres) {
        if (!_setjmp(block.scheduler)) _longjmp(block.idle[number], 1);
        return;
    }
    block.fibres++;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks + (size_t)number * STACK;
    context.uc_stack.ss_size = STACK;
    context.uc_link = NULL;
    makecontext(&context, fibre, 0);
    if (!_setjmp(block.scheduler)) setcontext(&context);
}

static void perform(const Thread *lanes);

// Lets every warp go on whose lanes all wait for it; whether there was one.
static int go_on_in_warps(void) {
    int moved = 0;
    const unsigned warps = block.threads / 32, first = warps ? next_random() % warps : 0;
    for (unsigned k = 0; k < warps; k++) {
        const int warp = (int)((first + k) % warps) * 32;
        Thread *lanes = threads_of_block + warp;
        int waiting = 0;
        for (int i = 0; i < 32; i++) waiting += lanes[i].state == AT_WARP && lanes[i].what == lanes[0].what;
        if (waiting < 32) continue;
        perform(lanes);
        for (int i = 0; i < 32; i++) resume(warp + (warp % 64 ? i : 31 - i));
        moved = 1;
    }
    return moved;
}

// Whether all threads of the block came to their end, and waited for the same things on the way.
static int run_block(void) {
    block.begun = block.finished = 0;
    block.wrong = 0;
    for (unsigned i = 0; i < block.threads; i++) threads_of_block[i].copies = threads_of_block[i].group = 0;
    memset(shared, 0xff, block.shared_bytes);
    for (int i = 0; block.begun < block.threads; i++) start(i);
    for (int round = 0; block.finished < block.threads; round++) {
        while (go_on_in_warps()) {
        }
        if (block.finished == block.threads) break;
        // All must wait at the same barrier: a thread that has ended never comes there.
        for (unsigned i = 0; i < block.threads; i++)
            if (threads_of_block[i].state != AT_BLOCK) return 0;
        for (unsigned i = 0; i < block.threads; i++) resume((int)(round % 2 ? i : block.threads - 1 - i));
    }
    return !block.wrong;
}

static int prepare_blocks(void) {
    if (stacks) return 1;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), most = (MOST_SHARED + page - 1) / page * page;
    unsigned char *start = mmap(NULL, most + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || mprotect(start + most, page, PROT_NONE)) return 0;
    shared = start + most;
    for (unsigned i = 0; i < 1 << 16; i++) {
        const int exponent = (int)(i >> 10 & 31), mantissa = (int)(i & 1023);
        const float size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                           : exponent     ? ldexpf((float)(1024 + mantissa), exponent - 25)
                                          : ldexpf((float)mantissa, -24);
        f16_values[i] = i >> 15 ? -size : size;
    }
    stacks = malloc((size_t)MOST_THREADS * STACK);
    return stacks != NULL;
}
// Shared memory of the next blocks: its end is the last that can be touched.
static void reserve_shared(unsigned bytes) {
    const unsigned rounded = (bytes + 255) / 256 * 256;
    shared = shared + block.shared_bytes - rounded;
    block.shared_bytes = rounded;
}

// ---------------------------------------------------------------------------------------------------------------------
// Numbers.

static inline float as_float(unsigned w) {
    float f;
    memcpy(&f, &w, 4);
    return f;
}
static inline unsigned as_word(float f) {
    unsigned w;
    memcpy(&w, &f, 4);
    return w;
}
static inline float low_f16(unsigned w) { return f16_values[w & 0xffff]; }
static inline float high_f16(unsigned w) { return f16_values[w >> 16]; }
// To f16, ties to even.
static inline unsigned to_f16(float value) {
    const unsigned bits = as_word(value), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return sign | 0x7e00;
    if (size >= 0x477ff000) return sign | 0x7c00;
    if (size < 0x38800000) return sign | (unsigned)(int)rintf(fabsf(value) * 16777216.0f);
    return sign | ((size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13);
}
static inline unsigned pack_f16(float low, float high) { return to_f16(low) | to_f16(high) << 16; }
static inline unsigned max_f16x2(unsigned a, unsigned b) {
    return pack_f16(fmaxf(low_f16(a), low_f16(b)), fmaxf(high_f16(a), high_f16(b)));
}
static inline unsigned fma_f16x2(unsigned a, unsigned b, unsigned c) {
    return pack_f16(low_f16(a) * low_f16(b) + low_f16(c), high_f16(a) * high_f16(b) + high_f16(c));
}
static inline unsigned saturated(int x) { return (unsigned)(x > 127 ? 127 : x < -128 ? -128 : x) & 255; }
static inline unsigned pack_int8(int a, int b, int c, int d) {
    return saturated(a) | saturated(b) << 8 | saturated(c) << 16 | saturated(d) << 24;
}
static inline int round_to_int(float x) { return (int)rintf(x); }
static inline float multiply_rounded(float a, float b) {
    return a * b;
}
static inline float add_rounded(float a, float b) { return a + b; }
static inline float divide_rounded(float a, float b) { return a / b; }
static inline int add_products_int8(unsigned a, unsigned b, int c) {
    for (int i = 0; i < 4; i++) c += (signed char)(a >> 8 * i) * (signed char)(b >> 8 * i);
    return c;
}
static inline float approximate_tanh(float x) { return tanhf(x); }
static inline float approximate_exp2(float x) { return exp2f(x); }
static inline unsigned nearest_tf32(unsigned w) { return (w + 0x1000u) & 0xffffe000u; }
static inline int count_bits(unsigned word) { return __builtin_popcount(word); }
static inline unsigned high_product(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline void keep(unsigned *number) { (void)number; }

// ---------------------------------------------------------------------------------------------------------------------
// Asynchronous copies.

static inline unsigned shared_address(const void *at) { return (unsigned)((const unsigned char *)at - shared); }
static void arrive(const Copy *copy) {
    memset(shared + copy->to, 0, 16);
    memcpy(shared + copy->to, copy->from, (size_t)copy->bytes);
}
static void copy16(unsigned to, const void *from, int bytes) {
    Thread *own = threads_of_block + block.current;
    const Copy copy = {to, from, bytes, own->group};
    if (to % 16 || (bytes && (uintptr_t)from % 16) || to + 16 > block.shared_bytes || own->copies == MOST_COPIES)
        block.wrong = 1;
    else if (next_random() % 2)
        arrive(&copy);
    else
        copies_of[block.current][own->copies++] = copy;
}
static void copies_end(void) { threads_of_block[block.current].group++; }
static void copies_wait(int left) {
    Thread *own = threads_of_block + block.current;
    Copy *copies = copies_of[block.current];
    int kept = 0;
    for (int i = 0; i < own->copies; i++)
        if (copies[i].group < own->group - left)
            arrive(&copies[i]);
        else
            copies[kept++] = copies[i];
    own->copies = kept;
}

// ---------------------------------------------------------------------------------------------------------------------
// Collective functions of a warp.

static void collective(enum Collective what, int count, unsigned word, unsigned *to, const unsigned *a, const unsigned *b) {
    Thread *own = threads_of_block + block.current;
    own->what = what, own->count = count, own->word = word, own->to = to, own->a = a, own->b = b;
    wait_for(AT_WARP);
}
static void warp_barrier(void) { collective(SYNC, 0, 0, NULL, NULL, NULL); }
static void load_matrices4(unsigned r[4], unsigned at) { collective(LOAD, 4, at, r, NULL, NULL); }
static void load_matrices2(unsigned r[2], unsigned at) { collective(LOAD, 2, at, r, NULL, NULL); }
static void load_matrices4_transposed(unsigned r[4], unsigned at) { collective(LOAD_TRANSPOSED, 4, at, r, NULL, NULL); }
static void multiply_f16(unsigned c[4], const unsigned a[4], const unsigned b[2]) { collective(MULTIPLY_F16, 0, 0, c, a, b); }
static void multiply_int8(unsigned c[4], const unsigned a[4], const unsigned b[2]) { collective(MULTIPLY_INT8, 0, 0, c, a, b); }
static void multiply_tf32(unsigned c[4], const unsigned a[4], const unsigned b[2]) { collective(MULTIPLY_TF32, 0, 0, c, a, b); }
static float exchange_with(float x, int mask) {
    unsigned word;
    collective(EXCHANGE, mask, as_word(x), &word, NULL, NULL);
    return as_float(word);
}

static void load_fragments(const Thread *lanes, int transposed) {
    for (int lane = 0; lane < 32; lane++)
        for (int m = 0; m < lanes[lane].count; m++) {
            unsigned short v[2];
            for (int e = 0; e < 2; e++) {
                // Value e of a lane: of row lane / 4 from 2 * (lane % 4) on, or of column lane / 4.
                const int row = transposed ? lane % 4 * 2 + e : lane / 4, column = transposed ? lane / 4 : lane % 4 * 2 + e;
                const unsigned at = lanes[8 * m + row].word;
                if (at % 16 || at + 16 > block.shared_bytes) {
                    block.wrong = 1;
                    return;
                }
                memcpy(&v[e], shared + at + 2 * column, 2);
            }
            memcpy(&lanes[lane].to[m], v, 4);
        }
}
// Where word e of a lane's operands lies: row and word of the depth.
#define A_ROW(lane, e) ((lane) / 4 + (e) % 2 * 8)
#define WORD(lane, e) ((lane) % 4 + (e) * 4)
#define C_ROW(lane, e) ((lane) / 4 + (e) / 2 * 8)
#define C_COLUMN(lane, e) ((lane) % 4 * 2 + (e) % 2)
// Sums of a row of 8 columns, plus `count` products of each, as tensor cores of sm_80 to sm_87 add them up: products are
// exact; all summands are cut off, towards zero, at one bit below the last that an f32 value has whose exponent is the
// largest among them (of a product the sum of its factors'); their sum is exact, and cut off to f32 (Fasi et al.,
// "Numerical behavior of NVIDIA tensor cores", 2021; Khattak & Mikaitis, "Accurate models of NVIDIA tensor cores", 2025,
// who find 8 products of f16 or 4 of tf32 in a sum; those of sm_90 keep one bit more and add up twice as many).
#define MOST_PRODUCTS 8
#define EXTRA_BITS 1
static int exponent_of(float x) { return (int)(as_word(x) >> 23 & 255); }
static void add_products(float sums[8], const float *a, float (*b)[8], int count) {
    float product[MOST_PRODUCTS][8], scale[8];
    int top[8], all[8], highest = 0;
    // Below 2^-103 there is nothing to tell apart.
    for (int i = 0; i < 8; i++) top[i] = exponent_of(sums[i]) > 24 ? exponent_of(sums[i]) : 24;
    for (int k = 0; k < count; k++) {
        const int own = exponent_of(a[k]) - 127;
        for (int i = 0; i < 8; i++) {
            const int exponent = own + exponent_of(b[k][i]);
            product[k][i] = a[k] * b[k][i];
            top[i] = exponent > top[i] ? exponent : top[i];
        }
    }
    for (int i = 0; i < 8; i++) highest = top[i] > highest ? top[i] : highest;
    if (highest > 250) {
        // Infinite, not a number, or about to be.
        for (int k = 0; k < count; k++)
            for (int i = 0; i < 8; i++) sums[i] += product[k][i];
        return;
    }
    const int last = 23 + EXTRA_BITS;
    for (int i = 0; i < 8; i++) {
        scale[i] = as_float((unsigned)(2 * 127 + last - top[i]) << 23);
        all[i] = (int)(sums[i] * scale[i]);
    }
    for (int k = 0; k < count; k++)
        for (int i = 0; i < 8; i++) all[i] += (int)(product[k][i] * scale[i]);
    for (int i = 0; i < 8; i++) {
        uint64_t bits = (uint64_t)(1023 - 127 - last + top[i]) << 52;
        double sum;
        memcpy(&sum, &bits, 8);
        sum *= all[i];
        memcpy(&bits, &sum, 8);
        bits &= ~0ull << 29;
        memcpy(&sum, &bits, 8);
        sums[i] = (float)sum;
    }
}
// What a step of a warp multiplies, in f32, and the sums: 16 rows, 8 columns, a depth of up to 16.
static float rows_of_a[16][16], columns_of_b[16][8], sums_of_c[16][8];
static void multiply_fragments(const Thread *lanes, int depth, int count) {
    for (int lane = 0; lane < 32; lane++)
        for (int e = 0; e < 4; e++) sums_of_c[C_ROW(lane, e)][C_COLUMN(lane, e)] = as_float(lanes[lane].to[e]);
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < depth; k += count) add_products(sums_of_c[row], rows_of_a[row] + k, columns_of_b + k, count);
    for (int lane = 0; lane < 32; lane++)
        for (int e = 0; e < 4; e++) lanes[lane].to[e] = as_word(sums_of_c[C_ROW(lane, e)][C_COLUMN(lane, e)]);
}
static void multiply_fragments_f16(const Thread *lanes) {
    for (int lane = 0; lane < 32; lane++) {
        const Thread *l = lanes + lane;
        for (int e = 0; e < 4; e++) {
            float *at = &rows_of_a[A_ROW(lane, e)][2 * WORD(lane, e / 2)];
            at[0] = low_f16(l->a[e]), at[1] = high_f16(l->a[e]);
        }
        for (int e = 0; e < 2; e++) {
            columns_of_b[2 * WORD(lane, e)][lane / 4] = low_f16(l->b[e]);
            columns_of_b[2 * WORD(lane, e) + 1][lane / 4] = high_f16(l->b[e]);
        }
    }
    multiply_fragments(lanes, 16, 8);
}
static void multiply_fragments_int8(const Thread *lanes) {
    int a[16][32], b[32][8], c[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const Thread *l = lanes + lane;
        for (int e = 0; e < 4; e++) {
            for (int i = 0; i < 4; i++)
                a[A_ROW(lane, e)][4 * WORD(lane, e / 2) + i] = (signed char)(l->a[e] >> 8 * i);
            c[C_ROW(lane, e)][C_COLUMN(lane, e)] = (int)l->to[e];
        }
        for (int e = 0; e < 2; e++)
            for (int i = 0; i < 4; i++) b[4 * WORD(lane, e) + i][lane / 4] = (signed char)(l->b[e] >> 8 * i);
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 32; k++)
            for (int column = 0; column < 8; column++) c[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < 32; lane++)
        for (int e = 0; e < 4; e++) lanes[lane].to[e] = (unsigned)c[C_ROW(lane, e)][C_COLUMN(lane, e)];
}
static void multiply_fragments_tf32(const Thread *lanes) {
    for (int lane = 0; lane < 32; lane++) {
        const Thread *l = lanes + lane;
        for (int e = 0; e < 4; e++) rows_of_a[A_ROW(lane, e)][WORD(lane, e / 2)] = as_float(l->a[e] & 0xffffe000u);
        for (int e = 0; e < 2; e++) columns_of_b[WORD(lane, e)][lane / 4] = as_float(l->b[e] & 0xffffe000u);
    }
    multiply_fragments(lanes, 8, 4);
}
static void perform(const Thread *lanes) {
    switch (lanes[0].what) {
        case SYNC: break;
        case LOAD: load_fragments(lanes, 0); break;
        case LOAD_TRANSPOSED: load_fragments(lanes, 1); break;
        case MULTIPLY_F16: multiply_fragments_f16(lanes); break;
        case MULTIPLY_INT8: multiply_fragments_int8(lanes); break;
        case MULTIPLY_TF32: multiply_fragments_tf32(lanes); break;
        case EXCHANGE:
            for (int i = 0; i < 32; i++) *lanes[i].to = lanes[i ^ lanes[i].count].word;
    }
}
