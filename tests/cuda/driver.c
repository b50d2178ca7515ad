// An emulated CUDA driver: the functions that src/kernels/cuda/driver.rs looks for, on the CPU. The kernels are
// compiled into it, so that the code it is given to load does not matter. Right results, meaningless times.
//
// emulate.h runs the threads of a block. Device memory and page-locked memory end at a page that cannot be touched, and
// start filled with NaN. A graph's nodes run one after the other, in another order at every launch, of those that its
// edges allow; a stream does what is started in it after the call has returned, beside the host and other streams: a
// missing edge, or a wait that is missing, shows as a wrong result.
//
//     cc -O2 -ffp-contract=off -shared -fPIC -I src/kernels/cuda -o libcuda.so.1 tests/cuda/driver.c -lm -lpthread
//
// (-mfma is much faster where the CPU has it.)
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE
#include <pthread.h>
#include <time.h>

#include "emulate.h"
// With the kernels of a training step.
#define CARRY_TRAINING
#include "kernels.cu"
#include "stream.h"

#define SUCCESS 0
#define INVALID_VALUE 1
#define OUT_OF_MEMORY 2
#define NOT_FOUND 500
#define NOT_READY 600
#define LAUNCH_FAILED 719

typedef struct {
    const char *name;
    void (*kernel)(char *, const void *);
    unsigned threads, size;
} Kernel;

#define WITH_PARAMS(name) static void run_##name(char *m, const void *p) { name((float *)m, *(const Params *)p); }
#define WITH_ARGUMENTS(name) static void run_##name(char *m, const void *p) { name(m, *(const Arguments *)p); }
#define F32_KERNELS(X)                                                                                             \
    X(conv_64x64, 256) X(conv_64x32, 128) X(conv_64x16, 64) X(conv_32x32, 64) X(depthwise, BLOCK) X(max_pool, BLOCK) \
    X(upsample, BLOCK) X(pixel_shuffle, BLOCK) X(attention_values, BLOCK) X(activate, BLOCK) X(add, BLOCK)           \
    X(average, BLOCK) X(attention, KEYS)
#define F16_KERNELS(X)                                                                                               \
    X(f16_stem, 128) X(f16_stem_bytes, 128) X(from_bytes, 128) X(f16_import, 128) X(f16_export, 128)                  \
    X(f16_direct, 128) X(f16_depthwise3, 128) X(f16_depthwise3_stride2, 128) X(f16_depthwise, 128)                    \
    X(f16_upsample, 128) X(f16_pixel_shuffle, 128) X(f16_max_pool, 128) X(f16_pools, 128) X(f32_pools, 128)           \
    X(f16_elementwise, 128) X(f16_average, 128) X(f16_attention, 128) X(f16_attention_any, 128)                       \
    X(int8_quantize, 128) X(int8_direct, 128) X(peak_f32, 128) X(peak_f16, 128) X(peak_int8, 128)
#define WITH_CELLS(name) static void run_##name(char *m, const void *p) { name(m, *(const CellArguments *)p); }
#define CELL_KERNELS(X) X(find_cells, 128) X(take_cells, 128)
#define WITH_TRAINING(name) static void run_##name(char *m, const void *p) { name(m, *(const Training *)p); }
// Each on tensors in f32 and in f16.
#define TRAIN_KERNELS(X)                                                                                              \
    X(train_conv_64, 256) X(train_conv_16, 64) X(train_conv_data_64, 256) X(train_conv_data_16, 64)                   \
    X(train_conv_weights_64, 256) X(train_conv_weights_16, 64) X(train_depthwise, BLOCK) X(train_depthwise_data, BLOCK) \
    X(train_depthwise_weights, BLOCK) X(train_moments, BLOCK) X(train_norm, BLOCK) X(train_norm_sums, BLOCK)          \
    X(train_sums, BLOCK) X(train_norm_backward, BLOCK) X(train_activate, BLOCK) X(train_activate_backward, BLOCK)     \
    X(train_max_pool, BLOCK) X(train_max_pool_backward, BLOCK) X(train_average_pool, BLOCK)                           \
    X(train_average_pool_backward, BLOCK) X(train_global_average, BLOCK) X(train_global_average_backward, BLOCK)      \
    X(train_upsample, BLOCK) X(train_upsample_backward, BLOCK) X(train_copy, BLOCK) X(train_zero, BLOCK)              \
    X(train_add, BLOCK) X(train_values, BLOCK) X(train_values_backward, BLOCK) X(train_import, BLOCK)                 \
    X(train_export, BLOCK) X(train_attention, KEYS) X(train_attention_dots, BLOCK) X(train_attention_queries, KEYS)   \
    X(train_attention_keys, KEYS) X(train_round, BLOCK) X(train_round_backward, BLOCK) X(train_boxes, BLOCK)          \
    X(train_confidence, BLOCK) X(train_choose, 128) X(train_settle, BLOCK) X(train_class_loss, BLOCK)                 \
    X(train_box_loss, BLOCK)
// On arrays alone.
#define TRAIN_ARRAYS(X)                                                                                               \
    X(train_add_up, BLOCK) X(train_moments_joined, BLOCK) X(train_moments_own, BLOCK) X(train_moments_of_all, BLOCK)  \
    X(train_moments_given, BLOCK) X(train_sums_joined, BLOCK) X(train_squares, BLOCK) X(train_norm_joined, 32)        \
    X(train_step, BLOCK) X(train_round_kernel, BLOCK) X(train_keep, BLOCK) X(train_image_sums, BLOCK)                 \
    X(train_terms, BLOCK) X(train_sample_values, BLOCK) X(train_sample_sums, BLOCK) X(train_sample_products, BLOCK)   \
    X(train_pixel_squares, BLOCK) X(train_channel_squares, BLOCK)
#define WRAP_TRAIN(name, threads) WITH_TRAINING(name##_f32) WITH_TRAINING(name##_f16)
#define WRAP_ARRAYS(name, threads) WITH_TRAINING(name)
#define WRAP_F32(name, threads) WITH_PARAMS(name)
#define WRAP_F16(name, threads) WITH_ARGUMENTS(name)
#define WRAP_CELLS(name, threads) WITH_CELLS(name)
#define WRAP_NAMED(name) WITH_ARGUMENTS(name)
#define WRAP_PRODUCT(kind, out, form, prefix, ...) WRAP_NAMED(NAME(prefix, __VA_ARGS__))
F32_KERNELS(WRAP_F32) F16_KERNELS(WRAP_F16) PRODUCTS(WRAP_PRODUCT)
CELL_KERNELS(WRAP_CELLS) TRAIN_KERNELS(WRAP_TRAIN) TRAIN_ARRAYS(WRAP_ARRAYS)

#define TEXT(name) #name
#define ENTRY(name, threads, type) {TEXT(name), run_##name, threads, sizeof(type)},
#define ENTRY_F32(name, threads) ENTRY(name, threads, Params)
#define ENTRY_F16(name, threads) ENTRY(name, threads, Arguments)
#define ENTRY_CELLS(name, threads) ENTRY(name, threads, CellArguments)
#define ENTRY_NAMED(name, threads) ENTRY(name, threads, Arguments)
#define ENTRY_PRODUCT(kind, out, form, prefix, rows, columns, wm, wn, wk, chunks, stages) \
    ENTRY_NAMED(NAME(prefix, rows, columns, wm, wn, wk, chunks, stages), 32 * (wm) * (wn) * (wk))
#define ENTRY_TRAIN(name, threads) ENTRY(name##_f32, threads, Training) ENTRY(name##_f16, threads, Training)
#define ENTRY_ARRAYS(name, threads) ENTRY(name, threads, Training)
static const Kernel KERNELS[] = {F32_KERNELS(ENTRY_F32) F16_KERNELS(ENTRY_F16) PRODUCTS(ENTRY_PRODUCT)
                                 CELL_KERNELS(ENTRY_CELLS) TRAIN_KERNELS(ENTRY_TRAIN) TRAIN_ARRAYS(ENTRY_ARRAYS)};
#define COUNT (int)(sizeof KERNELS / sizeof KERNELS[0])

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }
// Of the two devices the second has an architecture that the kernels do not run on.
int cuDeviceGetCount(int *count) { return *count = 2, SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal > 1 ? INVALID_VALUE : SUCCESS; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device ? "emulated T4" : "emulated", (size_t)length);
    return SUCCESS;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    // Compute capability 8.7 (of the second device 7.5) and 8 multiprocessors.
    *value = attribute == 75 ? (device ? 7 : 8) : attribute == 76 ? (device ? 5 : 7) : attribute == 16 ? 8 : 0;
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
static char *guarded(size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), rounded = (bytes + page - 1) / page * page;
    char *start = mmap(NULL, rounded + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return NULL;
    mprotect(start + page + rounded, page, PROT_NONE);
    *(size_t *)start = rounded + 2 * page;
    memset(start + page, 0xff, rounded);
    // As far back as the alignment of a cache line allows.
    return start + page + (rounded - bytes) / 64 * 64;
}
static int release(char *memory) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *start = (char *)((uintptr_t)memory / page * page - page);
    return munmap(start, *(size_t *)start) ? INVALID_VALUE : SUCCESS;
}
int cuMemAlloc_v2(unsigned long long *address, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    char *memory = guarded(bytes);
    *address = (unsigned long long)memory;
    return memory ? SUCCESS : OUT_OF_MEMORY;
}
int cuMemFree_v2(unsigned long long address) { return release((char *)address); }
int cuMemGetInfo_v2(size_t *left, size_t *total) { return *left = *total = (size_t)8 << 30, SUCCESS; }
int cuMemAllocHost_v2(void **memory, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    *memory = guarded(bytes);
    return *memory ? SUCCESS : OUT_OF_MEMORY;
}
int cuMemFreeHost(void *memory) { return release(memory); }
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t bytes) {
    return memcpy((void *)to, from, bytes), SUCCESS;
}
int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t bytes) {
    return memcpy(to, (const void *)from, bytes), SUCCESS;
}

// ---------------------------------------------------------------------------------------------------------------------
// Launches.

typedef struct {
    const Kernel *kernel;
    unsigned grid[3], shared;
    char *memory;
    union {
        Params params;
        Arguments arguments;
        CellArguments cells;
        Training training;
    } arguments;
} Launch;

static int make_launch(Launch *launch, const Kernel *kernel, const unsigned grid[3], const unsigned threads[3], unsigned bytes,
                       void **arguments) {
    if (threads[0] != kernel->threads || threads[1] != 1 || threads[2] != 1 || bytes > MOST_SHARED) return INVALID_VALUE;
    if (!grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535) return INVALID_VALUE;
    launch->kernel = kernel, launch->shared = bytes;
    memcpy(launch->grid, grid, sizeof launch->grid);
    launch->memory = *(char **)arguments[0];
    memcpy(&launch->arguments, arguments[1], kernel->size);
    return SUCCESS;
}
static int run(const Launch *launch) {
    pthread_mutex_lock(&one_at_a_time);
    int result = prepare_blocks() ? SUCCESS : OUT_OF_MEMORY;
    block.kernel = launch->kernel->kernel;
    block.memory = launch->memory;
    block.arguments = &launch->arguments;
    block.threads = launch->kernel->threads;
    if (!result) reserve_shared(launch->shared);
    unsigned number = 0;
    const unsigned *grid = launch->grid;
    for (blockIdx.z = 0; blockIdx.z < grid[2] && !result; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid[1] && !result; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid[0] && !result; blockIdx.x++) {
                block.backwards = (int)(number++ % 2);
                if (!run_block()) result = LAUNCH_FAILED;
            }
    // Fibres of a block that did not end are never run again.
    if (result) block.fibres = 0;
    pthread_mutex_unlock(&one_at_a_time);
    return result;
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams and events.

// What is started in a stream: its thread does one after the other.
typedef struct Work {
    void (*run)(void *);
    void *argument;
    struct Work *next;
} Work;
typedef struct {
    Stream common;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    Work *first, *last;
    int pending, ends, failed_before;
} Queue;
static void *work(void *stream) {
    Queue *queue = stream;
    pthread_mutex_lock(&queue->lock);
    for (;;) {
        while (!queue->first && !queue->ends) pthread_cond_wait(&queue->changed, &queue->lock);
        Work *next = queue->first;
        if (!next) break;
        queue->first = next->next;
        pthread_mutex_unlock(&queue->lock);
        next->run(next->argument);
        free(next);
        pthread_mutex_lock(&queue->lock);
        queue->pending--;
        pthread_cond_broadcast(&queue->changed);
    }
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}
static int enqueue(Stream *stream, void (*run)(void *), void *argument) {
    Queue *queue = (Queue *)stream;
    Work *next = malloc(sizeof *next);
    if (!next) return OUT_OF_MEMORY;
    *next = (Work){run, argument, NULL};
    pthread_mutex_lock(&queue->lock);
    if (queue->first)
        queue->last->next = next;
    else
        queue->first = next;
    queue->last = next;
    queue->pending++;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
    return SUCCESS;
}
int cuStreamCreate(void **stream, unsigned flags) {
    Queue *queue = calloc(1, sizeof *queue);
    if (!queue || flags > 1) return free(queue), INVALID_VALUE;
    queue->common.enqueue = enqueue;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->changed, NULL);
    if (pthread_create(&queue->thread, NULL, work, queue)) return free(queue), OUT_OF_MEMORY;
    return *stream = queue, SUCCESS;
}
int cuStreamDestroy_v2(void *stream) {
    Queue *queue = stream;
    if (!queue) return INVALID_VALUE;
    pthread_mutex_lock(&queue->lock);
    queue->ends = 1;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
    pthread_join(queue->thread, NULL);
    return free(queue), SUCCESS;
}
// What failed since it was asked for last; `waits` for the end of all, or says that it has not come.
static int ended(Queue *queue, int waits) {
    if (!queue) return INVALID_VALUE;
    pthread_mutex_lock(&queue->lock);
    while (waits && queue->pending) pthread_cond_wait(&queue->changed, &queue->lock);
    const int pending = queue->pending, result = pending ? NOT_READY : queue->failed_before;
    if (!pending) queue->failed_before = SUCCESS;
    pthread_mutex_unlock(&queue->lock);
    return result;
}
int cuStreamSynchronize(void *stream) { return ended(stream, 1); }
int cuStreamQuery(void *stream) { return ended(stream, 0); }

// A mark in a stream, of the place where it was recorded last.
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    // How often it was recorded, and the last of these that its stream has come to.
    unsigned recorded, passed;
    struct timespec when;
} Event;
typedef struct {
    Event *event;
    unsigned number;
} Mark;
int cuEventCreate(void **event, unsigned flags) {
    Event *made = calloc(1, sizeof *made);
    // Without or with CU_EVENT_DISABLE_TIMING.
    if (!made || flags & ~2u) return free(made), INVALID_VALUE;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->changed, NULL);
    return *event = made, SUCCESS;
}
int cuEventDestroy_v2(void *event) { return free(event), SUCCESS; }
static int enqueue_mark(Event *event, int records, void *stream, void (*run)(void *)) {
    Mark *mark = malloc(sizeof *mark);
    if (!event || !stream || !mark) return free(mark), INVALID_VALUE;
    pthread_mutex_lock(&event->lock);
    event->recorded += (unsigned)records;
    *mark = (Mark){event, event->recorded};
    pthread_mutex_unlock(&event->lock);
    return enqueue(stream, run, mark);
}
static void pass(void *argument) {
    Mark *mark = argument;
    pthread_mutex_lock(&mark->event->lock);
    mark->event->passed = mark->number;
    clock_gettime(CLOCK_MONOTONIC, &mark->event->when);
    pthread_cond_broadcast(&mark->event->changed);
    pthread_mutex_unlock(&mark->event->lock);
    free(mark);
}
static void wait_for_mark(void *argument) {
    Mark *mark = argument;
    pthread_mutex_lock(&mark->event->lock);
    while (mark->event->passed < mark->number) pthread_cond_wait(&mark->event->changed, &mark->event->lock);
    pthread_mutex_unlock(&mark->event->lock);
    free(mark);
}
int cuEventRecord(void *event, void *stream) { return enqueue_mark(event, 1, stream, pass); }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    return flags ? INVALID_VALUE : enqueue_mark(event, 0, stream, wait_for_mark);
}
int cuEventElapsedTime(float *millis, void *from, void *to) {
    const Event *a = from, *b = to;
    if (a->passed < a->recorded || b->passed < b->recorded) return NOT_READY;
    *millis = (float)((double)(b->when.tv_sec - a->when.tv_sec) * 1e3 + (double)(b->when.tv_nsec - a->when.tv_nsec) / 1e6);
    return SUCCESS;
}

// ---------------------------------------------------------------------------------------------------------------------
// What is started: kernels, copies and graphs.

typedef struct {
    Launch launch;  // or a copy, without a kernel
    char *to;
    const char *from;
    size_t bytes;
    int needs, *needed;
} Node;
typedef struct {
    Node *nodes;
    int count, launches;
} Graph;

static int add_node(void **handle, Graph *graph, void *const *needed, size_t needs, Node node) {
    node.needs = (int)needs;
    node.needed = malloc((needs + 1) * sizeof(int));
    for (size_t i = 0; i < needs; i++) {
        node.needed[i] = (int)(uintptr_t)needed[i] - 1;
        if (node.needed[i] < 0 || node.needed[i] >= graph->count) return INVALID_VALUE;
    }
    graph->nodes = realloc(graph->nodes, (size_t)(graph->count + 1) * sizeof(Node));
    graph->nodes[graph->count++] = node;
    return *handle = (void *)(uintptr_t)graph->count, SUCCESS;
}
int cuGraphCreate(void **graph, unsigned flags) { return *graph = calloc(1, sizeof(Graph)), flags ? INVALID_VALUE : SUCCESS; }
typedef struct {
    void *function;
    unsigned grid[3], threads[3], shared;
    void **arguments, **extra;
} KernelNode;
int cuGraphAddKernelNode(void **handle, void *graph, void *const *needed, size_t needs, const KernelNode *p) {
    Node node = {0};
    if (p->extra || make_launch(&node.launch, p->function, p->grid, p->threads, p->shared, p->arguments)) return INVALID_VALUE;
    return add_node(handle, graph, needed, needs, node);
}
// An array copy that is a plain one.
typedef struct {
    size_t from_place[4];
    int from_type;
    const void *from_host;
    unsigned long long from_device;
    void *from_array, *reserved;
    size_t from_pitch, from_height, to_place[4];
    int to_type;
    void *to_host;
    unsigned long long to_device;
    void *to_array, *reserved_too;
    size_t to_pitch, to_height, width, height, depth;
} CopyNode;
int cuGraphAddMemcpyNode(void **handle, void *graph, void *const *needed, size_t needs, const CopyNode *p, void *context) {
    Node node = {0};
    if (!context || p->height != 1 || p->depth != 1 || p->from_type + p->to_type != 3) return INVALID_VALUE;
    if (p->from_pitch < p->width || p->to_pitch < p->width) return INVALID_VALUE;
    node.from = p->from_type == 1 ? p->from_host : (const char *)p->from_device;
    node.to = p->to_type == 1 ? p->to_host : (char *)p->to_device;
    node.bytes = p->width;
    return add_node(handle, graph, needed, needs, node);
}
int cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
    Graph *copy = malloc(sizeof(Graph));
    *copy = *(Graph *)graph;
    copy->nodes = malloc((size_t)(copy->count + 1) * sizeof(Node));
    memcpy(copy->nodes, ((Graph *)graph)->nodes, (size_t)copy->count * sizeof(Node));
    for (int i = 0; i < copy->count; i++) {
        Node *node = copy->nodes + i;
        int *needed = malloc((size_t)(node->needs + 1) * sizeof(int));
        node->needed = memcpy(needed, node->needed, (size_t)node->needs * sizeof(int));
    }
    return *exec = copy, flags ? INVALID_VALUE : SUCCESS;
}
static int destroy(Graph *graph) {
    for (int i = 0; i < graph->count; i++) free(graph->nodes[i].needed);
    free(graph->nodes), free(graph);
    return SUCCESS;
}
int cuGraphDestroy(void *graph) { return destroy(graph); }
int cuGraphExecDestroy(void *graph) { return destroy(graph); }
// Nodes of a graph (`nodes`), or one that was started by itself (`own`).
typedef struct {
    Queue *queue;
    Node *nodes, own;
    int count, turn;
} Started;
static void run_nodes(void *argument) {
    Started *started = argument;
    const int count = started->count;
    Node *nodes = started->nodes ? started->nodes : &started->own;
    char *done = calloc((size_t)count + 1, 1);
    int result = done ? SUCCESS : OUT_OF_MEMORY;
    for (int left = count; left > 0 && !result; left--) {
        int chosen = -1, ready = 0;
        pthread_mutex_lock(&one_at_a_time);
        for (int i = 0; i < count; i++) {
            int free_to_go = !done[i];
            for (int k = 0; k < nodes[i].needs && free_to_go; k++) free_to_go = done[nodes[i].needed[k]];
            // The latest, or any.
            if (free_to_go && (started->turn % 2 == 0 || next_random() % (unsigned)++ready == 0)) chosen = i;
        }
        pthread_mutex_unlock(&one_at_a_time);
        if (chosen < 0) {
            result = INVALID_VALUE;
            break;
        }
        done[chosen] = 1;
        if (nodes[chosen].launch.kernel)
            result = run(&nodes[chosen].launch);
        else
            memcpy(nodes[chosen].to, nodes[chosen].from, nodes[chosen].bytes);
    }
    if (result) {
        pthread_mutex_lock(&started->queue->lock);
        started->queue->failed_before = result;
        pthread_mutex_unlock(&started->queue->lock);
    }
    free(done), free(started);
}
static int start_nodes(Started nodes, void *stream) {
    Started *started = malloc(sizeof *started);
    if (!stream || !started) return free(started), INVALID_VALUE;
    *started = nodes;
    started->queue = stream;
    return enqueue(stream, run_nodes, started);
}
int cuGraphLaunch(void *exec, void *stream) {
    Graph *graph = exec;
    return start_nodes((Started){.nodes = graph->nodes, .count = graph->count, .turn = graph->launches++}, stream);
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned bytes, void *stream, void **arguments, void **extra) {
    const unsigned grid[3] = {gx, gy, gz}, threads[3] = {bx, by, bz};
    Started started = {.count = 1};
    if (extra || make_launch(&started.own.launch, function, grid, threads, bytes, arguments)) return INVALID_VALUE;
    return start_nodes(started, stream);
}
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t bytes, void *stream) {
    return start_nodes((Started){.count = 1, .own = {.to = (char *)to, .from = from, .bytes = bytes}}, stream);
}
int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t bytes, void *stream) {
    return start_nodes((Started){.count = 1, .own = {.to = to, .from = (const char *)from, .bytes = bytes}}, stream);
}

int cuGetErrorString(int error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : error == LAUNCH_FAILED ? "unspecified launch failure" : "an error";
    return SUCCESS;
}
