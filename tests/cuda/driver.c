// An emulated CUDA driver: the functions that src/kernels/cuda/driver.rs looks for, on the CPU. The kernels are
// compiled into it, so that the code it is given to load does not matter. Right results, meaningless times.
//
// The threads of a block run as fibres, one after the other up to the next barrier. Their order turns round from
// barrier to barrier and from block to block, so that a missing barrier shows as a wrong result. Device memory ends at
// a page that cannot be touched, and starts filled with NaN.
//
//     cc -O2 -shared -fPIC -I src/kernels/cuda -o libcuda.so.1 tests/cuda/driver.c -lm -lpthread
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

typedef struct {
    unsigned x, y, z;
} Index;
typedef struct {
    float x, y, z, w;
} float4;

static Index threadIdx, blockIdx;
static void barrier(void);

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(threads)
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __syncthreads barrier

#include "kernels.cu"

#define SUCCESS 0
#define INVALID_VALUE 1
#define OUT_OF_MEMORY 2
#define NOT_FOUND 500
#define LAUNCH_FAILED 719

typedef void Kernel(float *, Params);
static const struct {
    const char *name;
    Kernel *kernel;
    unsigned threads;
} KERNELS[] = {
    {"conv_64x64", conv_64x64, 256}, {"conv_64x32", conv_64x32, 128}, {"conv_64x16", conv_64x16, 64},
    {"conv_32x32", conv_32x32, 64},  {"depthwise", depthwise, BLOCK}, {"max_pool", max_pool, BLOCK},
    {"upsample", upsample, BLOCK},
    {"pixel_shuffle", pixel_shuffle, BLOCK},
    {"attention_values", attention_values, BLOCK},
    {"activate", activate, BLOCK},   {"add", add, BLOCK},             {"average", average, BLOCK},
    {"attention", attention, KEYS},
};
#define COUNT (int)(sizeof KERNELS / sizeof KERNELS[0])

#define MOST_THREADS 256
#define STACK (64 << 10)

static struct {
    Kernel *kernel;
    float *memory;
    Params params;
    unsigned threads, begun, finished;
    int backwards;
    // Fibres: what each of them is, and who waits in it.
    int fibres, current;
    jmp_buf scheduler, waits[MOST_THREADS];
    unsigned thread[MOST_THREADS];
    int waiting[MOST_THREADS];
} block;
static char *stacks;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

// Runs threads of the block that nobody has begun, one after the other, until one waits at a barrier.
static void fibre(void) {
    const int own = block.current;
    while (block.begun < block.threads) {
        const unsigned turn = block.begun++;
        block.thread[own] = block.backwards ? block.threads - 1 - turn : turn;
        threadIdx.x = block.thread[own];
        block.kernel(block.memory, block.params);
        block.finished++;
    }
    block.waiting[own] = 0;
    _longjmp(block.scheduler, 1);
}

static __attribute__((noinline)) void barrier(void) {
    const int own = block.current;
    block.waiting[own] = 1;
    if (!_setjmp(block.waits[own])) _longjmp(block.scheduler, 1);
    threadIdx.x = block.thread[block.current];
}

static __attribute__((noinline)) void resume(int fibre) {
    block.current = fibre;
    block.waiting[fibre] = 0;
    if (!_setjmp(block.scheduler)) _longjmp(block.waits[fibre], 1);
}

static __attribute__((noinline)) void start(void) {
    static ucontext_t context;
    block.current = block.fibres++;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks + (size_t)block.current * STACK;
    context.uc_stack.ss_size = STACK;
    context.uc_link = NULL;
    makecontext(&context, fibre, 0);
    if (!_setjmp(block.scheduler)) setcontext(&context);
}

static int run_block(void) {
    block.begun = block.finished = 0;
    block.fibres = 0;
    while (block.begun < block.threads) start();
    for (int round = 0; block.finished < block.threads; round++) {
        // All that are left must wait at the same barrier: a thread that has ended never comes there.
        if (block.finished > 0) return LAUNCH_FAILED;
        for (int i = 0; i < block.fibres; i++) {
            const int fibre = round % 2 ? i : block.fibres - 1 - i;
            if (block.waiting[fibre]) resume(fibre);
        }
    }
    return SUCCESS;
}

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }
int cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { return *device = 0, ordinal ? INVALID_VALUE : SUCCESS; }
int cuDeviceGetName(char *name, int length, int device) {
    (void)device;
    strncpy(name, "emulated", (size_t)length);
    return SUCCESS;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    // Compute capability 8.7.
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : 0;
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    static int it;
    return *context = &it, SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int device) { return device ? INVALID_VALUE : SUCCESS; }
int cuCtxSetCurrent(void *context) { return context ? SUCCESS : INVALID_VALUE; }
int cuCtxSynchronize(void) { return SUCCESS; }
int cuModuleLoadData(void **module, const void *code) { return *module = (void *)KERNELS, code ? SUCCESS : INVALID_VALUE; }
int cuModuleUnload(void *module) { return module ? SUCCESS : INVALID_VALUE; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    (void)module;
    for (int i = 0; i < COUNT; i++)
        if (!strcmp(KERNELS[i].name, name)) return *function = (void *)&KERNELS[i], SUCCESS;
    return NOT_FOUND;
}

// A page that holds the length, then the memory, up to a page that nobody may touch.
int cuMemAlloc_v2(unsigned long long *address, size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), rounded = (bytes + page - 1) / page * page;
    if (bytes == 0) return INVALID_VALUE;
    char *start = mmap(NULL, rounded + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return OUT_OF_MEMORY;
    mprotect(start + page + rounded, page, PROT_NONE);
    *(size_t *)start = rounded + 2 * page;
    memset(start + page, 0xff, rounded);
    // As far back as the alignment of a cache line allows.
    *address = (unsigned long long)(start + page + (rounded - bytes) / 64 * 64);
    return SUCCESS;
}
int cuMemFree_v2(unsigned long long address) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *start = (char *)(address / page * page - page);
    return munmap(start, *(size_t *)start) ? INVALID_VALUE : SUCCESS;
}
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t bytes) {
    return memcpy((void *)to, from, bytes), SUCCESS;
}
int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t bytes) {
    return memcpy(to, (const void *)from, bytes), SUCCESS;
}

int cuLaunchKernel(const void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    const int index = (int)((const char *)function - (const char *)KERNELS) / (int)sizeof KERNELS[0];
    if (bx != KERNELS[index].threads || by != 1 || bz != 1 || !gx || !gy || !gz || shared || stream || extra)
        return INVALID_VALUE;
    if (gx > 0x7fffffffu || gy > 65535 || gz > 65535) return INVALID_VALUE;
    pthread_mutex_lock(&one_at_a_time);
    if (!stacks) stacks = malloc((size_t)MOST_THREADS * STACK);
    block.kernel = KERNELS[index].kernel;
    block.memory = *(float **)arguments[0];
    block.params = *(const Params *)arguments[1];
    block.threads = bx;
    int result = stacks ? SUCCESS : OUT_OF_MEMORY;
    unsigned number = 0;
    for (blockIdx.z = 0; blockIdx.z < gz && !result; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < gy && !result; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < gx && !result; blockIdx.x++) {
                block.backwards = (int)(number++ % 2);
                result = run_block();
            }
    pthread_mutex_unlock(&one_at_a_time);
    return result;
}

int cuGetErrorString(int error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : error == LAUNCH_FAILED ? "unspecified launch failure" : "an error";
    return SUCCESS;
}
