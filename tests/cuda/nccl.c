// A stand-in for NCCL: the functions that src/kernels/cuda/nccl.rs looks for, between ranks of one machine on the emulated
// driver, whose device memory is the host's. Ranks are processes or threads.
//
// What is started goes into a stream and ends when all ranks have started the same, as in NCCL; so it is with errors: a
// rank that leaves (ncclCommAbort) is an asynchronous error of the others, whose operations still do not end, and one that
// dies is none, as between GPUs of one machine. Sums begin at another rank for every part, with the same bits everywhere.
// Operations of a communicator follow each other in the order in which they were started, whatever their streams. Each
// takes the values that are there as soon as its stream comes to it, and writes its results late: where a wait between
// streams is missing, that shows as a wrong result.
//
//     cc -O2 -shared -fPIC -I tests/cuda -o libnccl.so.2 tests/cuda/nccl.c -lpthread
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "stream.h"

#ifndef VERSION
#define VERSION 22203
#endif

enum { SUCCESS, UNHANDLED, SYSTEM_ERROR, INTERNAL_ERROR, INVALID_ARGUMENT, INVALID_USAGE, REMOTE_ERROR };
enum { UINT32 = 3, FLOAT32 = 7 };
#define MOST_RANKS 8
// Bytes that a rank hands over at a time.
#define PART (1 << 16)
// Nanoseconds before results are written.
#define LATE 500000

typedef struct {
    char bytes[128];
} UniqueId;

// What all ranks see: a file that is mapped.
typedef struct {
    atomic_uint joined, arrived, left;
    struct {
        atomic_uint full;
        char bytes[PART];
    } parts[MOST_RANKS], mail[MOST_RANKS][MOST_RANKS];
} Meeting;

typedef struct {
    Meeting *meeting;
    int rank, size;
    // Barriers so far, and operations that were started.
    unsigned turns, started;
    atomic_uint ended;
    atomic_int aborted, error, pending;
} Comm;

static _Thread_local char last_error[256];
static int failed(int code, const char *why) {
    snprintf(last_error, sizeof last_error, "%s", why);
    return code;
}
static void rest(void) {
    const struct timespec moment = {0, 20000};
    nanosleep(&moment, NULL);
}

const char *ncclGetErrorString(int code) {
    static const char *const texts[] = {"no error",         "unhandled cuda error", "unhandled system error", "internal error",
                                        "invalid argument", "invalid usage",        "remote process exited or there was a network error"};
    return code >= 0 && code <= REMOTE_ERROR ? texts[code] : "unknown result code";
}
const char *ncclGetLastError(Comm *comm) {
    (void)comm;
    return last_error;
}
int ncclGetVersion(int *version) { return *version = VERSION, SUCCESS; }

// ---------------------------------------------------------------------------------------------------------------------
// Joining.

int ncclGetUniqueId(UniqueId *id) {
    static atomic_uint count;
    const char *address = getenv("NCCL_COMM_ID");
    struct timespec now;
    memset(id, 0, sizeof *id);
    if (address) {
        if (!strchr(address, ':') || strlen(address) > 100 || strchr(address, '/'))
            return failed(INVALID_ARGUMENT, "Invalid NCCL_COMM_ID, please use format: <ipv4>:<port>");
        snprintf(id->bytes, sizeof id->bytes, "at-%s", address);
        return SUCCESS;
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(id->bytes, sizeof id->bytes, "of-%d-%u-%ld-%ld", (int)getpid(), atomic_fetch_add(&count, 1), (long)now.tv_sec, now.tv_nsec);
    return SUCCESS;
}

int ncclCommInitRank(Comm **comm, int size, UniqueId id, int rank) {
    char path[256];
    if (size < 1 || size > MOST_RANKS || rank < 0 || rank >= size) return failed(INVALID_ARGUMENT, "Invalid rank requested");
    id.bytes[sizeof id.bytes - 1] = 0;
    snprintf(path, sizeof path, "%s/nccl-stand-in-%d-%s", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", (int)getuid(), id.bytes);
    const int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof(Meeting))) return failed(SYSTEM_ERROR, "no shared memory");
    Meeting *meeting = mmap(NULL, sizeof(Meeting), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    Comm *made = calloc(1, sizeof *made);
    if (meeting == MAP_FAILED || !made) return failed(SYSTEM_ERROR, "no shared memory");
    made->meeting = meeting, made->rank = rank, made->size = size;
    atomic_fetch_add(&meeting->joined, 1);
    while (atomic_load(&meeting->joined) < (unsigned)size) rest();
    // Ranks of the next communicator at the same address meet in another file.
    if (rank == 0) unlink(path);
    atomic_fetch_add(&meeting->joined, 1);
    while (atomic_load(&meeting->joined) < 2 * (unsigned)size) rest();
    return *comm = made, SUCCESS;
}
static int leave(Comm *comm) {
    while (atomic_load(&comm->pending)) rest();
    munmap(comm->meeting, sizeof(Meeting));
    free(comm);
    return SUCCESS;
}
int ncclCommDestroy(Comm *comm) { return comm ? leave(comm) : INVALID_ARGUMENT; }
int ncclCommAbort(Comm *comm) {
    if (!comm) return INVALID_ARGUMENT;
    atomic_store(&comm->meeting->left, 1);
    atomic_store(&comm->aborted, 1);
    return leave(comm);
}
int ncclCommGetAsyncError(Comm *comm, int *error) {
    if (!comm || !error) return INVALID_ARGUMENT;
    return *error = atomic_load(&comm->error), SUCCESS;
}

// ---------------------------------------------------------------------------------------------------------------------
// Operations.

typedef struct {
    Comm *comm;
    enum { REDUCE, BROADCAST, GATHER, SEND, RECEIVE } kind;
    const char *from;
    char *to;
    size_t bytes, done;
    int peer;
    // What a collective operation took, and what it will write.
    char *taken, *found;
} Operation;

// Whether to go on waiting; a rank that was left waits until it leaves itself.
static int waits(Comm *comm) {
    if (atomic_load(&comm->meeting->left)) atomic_store(&comm->error, REMOTE_ERROR);
    rest();
    return !atomic_load(&comm->aborted);
}
static int barrier(Comm *comm) {
    const unsigned all = ++comm->turns * (unsigned)comm->size;
    atomic_fetch_add(&comm->meeting->arrived, 1);
    while (atomic_load(&comm->meeting->arrived) < all)
        if (!waits(comm)) return 0;
    return 1;
}
static size_t results(const Operation *op) { return op->bytes * (op->kind == GATHER ? (size_t)op->comm->size : 1); }
static int take_values(Operation *op) {
    op->taken = malloc(op->bytes + 1), op->found = malloc(results(op) + 1);
    return op->taken && op->found ? memcpy(op->taken, op->from, op->bytes), 1 : 0;
}
static void put_results(const Operation *op) { memcpy(op->to, op->found, results(op)); }
static int collective(const Operation *op) {
    Comm *comm = op->comm;
    for (size_t at = 0, part = 0; at < op->bytes; at += PART, part++) {
        const size_t bytes = op->bytes - at < PART ? op->bytes - at : PART;
        memcpy(comm->meeting->parts[comm->rank].bytes, op->taken + at, bytes);
        if (!barrier(comm)) return 0;
        if (op->kind == BROADCAST) memcpy(op->found + at, comm->meeting->parts[op->peer].bytes, bytes);
        for (int i = 0; i < comm->size && op->kind == GATHER; i++)
            memcpy(op->found + (size_t)i * op->bytes + at, comm->meeting->parts[i].bytes, bytes);
        for (int i = 0; i < comm->size && op->kind == REDUCE; i++) {
            const float *values = (const float *)comm->meeting->parts[(part + (size_t)i) % (size_t)comm->size].bytes;
            float *sums = (float *)(op->found + at);
            for (size_t k = 0; k < bytes / sizeof(float); k++) sums[k] = i ? sums[k] + values[k] : values[k];
        }
        if (!barrier(comm)) return 0;
    }
    return 1;
}
// Sends or receives what can be now; whether it has all.
static int point_to_point(Operation *op) {
    const int rank = op->comm->rank, sends = op->kind == SEND;
    const int from = sends ? rank : op->peer, to = sends ? op->peer : rank;
    atomic_uint *full = &op->comm->meeting->mail[from][to].full;
    char *bytes = op->comm->meeting->mail[from][to].bytes;
    if (op->done < op->bytes && atomic_load(full) == (unsigned)!sends) {
        const size_t now = op->bytes - op->done < PART ? op->bytes - op->done : PART;
        sends ? memcpy(bytes, op->from + op->done, now) : memcpy(op->to + op->done, bytes, now);
        op->done += now;
        atomic_store(full, (unsigned)sends);
    }
    return op->done == op->bytes;
}
typedef struct {
    int count;
    unsigned number;
    Operation operations[8];
} Group;
static _Thread_local Group group;
static _Thread_local Stream *group_stream;
static _Thread_local int depth;

static void run(void *argument) {
    Group *started = argument;
    Comm *comm = started->operations[0].comm;
    Operation *const first = started->operations, *const end = first + started->count;
    int left = 1;
    for (Operation *op = first; op < end && left; op++) left = op->kind >= SEND || take_values(op);
    // What was started before in another stream.
    while (left && atomic_load(&comm->ended) != started->number) left = waits(comm);
    for (Operation *op = first; op < end && left; op++) left = op->kind >= SEND || collective(op);
    if (left) nanosleep(&(struct timespec){0, LATE}, NULL);
    for (Operation *op = first; op < end; op++) {
        if (op->kind < SEND && left) put_results(op);
        free(op->taken), free(op->found);
    }
    while (left) {
        left = 0;
        for (int i = 0; i < started->count; i++)
            if (started->operations[i].kind >= SEND) left += !point_to_point(&started->operations[i]);
        if (left && !waits(comm)) break;
    }
    free(started);
    atomic_fetch_add(&comm->ended, 1);
    atomic_fetch_sub(&comm->pending, 1);
}
static int start(const Group *these, Stream *stream) {
    Group *own = malloc(sizeof *own);
    if (!own) return failed(SYSTEM_ERROR, "no memory");
    *own = *these;
    own->number = own->operations[0].comm->started++;
    atomic_fetch_add(&own->operations[0].comm->pending, 1);
    return stream->enqueue(stream, run, own) ? UNHANDLED : SUCCESS;
}
static int take(Operation op, Stream *stream) {
    if (!op.comm || !stream || op.peer < 0 || op.peer >= op.comm->size) return failed(INVALID_ARGUMENT, "no such rank");
    if (!depth) return start(&(Group){.count = 1, .operations = {op}}, stream);
    if (group.count == 8) return failed(INVALID_USAGE, "too many operations in a group");
    group.operations[group.count++] = op, group_stream = stream;
    return SUCCESS;
}
int ncclGroupStart(void) { return depth++, SUCCESS; }
int ncclGroupEnd(void) {
    if (!depth) return failed(INVALID_USAGE, "ncclGroupEnd: not in a group call.");
    if (--depth || !group.count) return SUCCESS;
    const int result = start(&group, group_stream);
    return group.count = 0, result;
}
static int unfit(int type) { return type != FLOAT32 && type != UINT32; }
int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, Comm *comm, Stream *stream) {
    if (type != FLOAT32 || op) return failed(INVALID_ARGUMENT, "only sums of f32");
    return take((Operation){.comm = comm, .kind = REDUCE, .from = from, .to = to, .bytes = 4 * count, .peer = 0}, stream);
}
int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, Comm *comm, Stream *stream) {
    if (unfit(type)) return failed(INVALID_ARGUMENT, "only four bytes");
    return take((Operation){.comm = comm, .kind = BROADCAST, .from = from, .to = to, .bytes = 4 * count, .peer = root}, stream);
}
int ncclAllGather(const void *from, void *to, size_t count, int type, Comm *comm, Stream *stream) {
    if (unfit(type)) return failed(INVALID_ARGUMENT, "only four bytes");
    return take((Operation){.comm = comm, .kind = GATHER, .from = from, .to = to, .bytes = 4 * count, .peer = 0}, stream);
}
int ncclSend(const void *from, size_t count, int type, int peer, Comm *comm, Stream *stream) {
    if (unfit(type)) return failed(INVALID_ARGUMENT, "only four bytes");
    return take((Operation){.comm = comm, .kind = SEND, .from = from, .to = NULL, .bytes = 4 * count, .peer = peer}, stream);
}
int ncclRecv(void *to, size_t count, int type, int peer, Comm *comm, Stream *stream) {
    if (unfit(type)) return failed(INVALID_ARGUMENT, "only four bytes");
    return take((Operation){.comm = comm, .kind = RECEIVE, .from = NULL, .to = to, .bytes = 4 * count, .peer = peer}, stream);
}
