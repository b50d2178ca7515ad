/* Preloaded before a program: fails, or kills the program at, the Nth file operation of one kind below a folder.
 *
 * SECATEURS_FAULT_ROOT   operations on paths below this folder count, all others pass
 * SECATEURS_FAULT_OP     open-read, open-write, write, fsync, rename, mkdir, unlink, or any of them ("any")
 * SECATEURS_FAULT_N      which one, from 1; 0 fails nothing
 * SECATEURS_FAULT_ERRNO  EIO, ENOSPC, EACCES; or KILL: half of a write is done, then the process ends as by kill -9
 * SECATEURS_FAULT_STICKY if set, every operation from the Nth on fails, as on a disk that is full
 * SECATEURS_FAULT_LOG    a file to which every operation that counts is appended: "OP PATH", or "FAULT OP PATH"
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_long seen;

static void record(const char *prefix, const char *op, const char *path) {
    const char *log = getenv("SECATEURS_FAULT_LOG");
    if (!log) return;
    char line[5000];
    int n = snprintf(line, sizeof line, "%s%s %s\n", prefix, op, path);
    if (n <= 0) return;
    if ((size_t)n >= sizeof line) n = sizeof line - 1;
    int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd < 0) return;
    syscall(SYS_write, fd, line, (size_t)n);
    syscall(SYS_close, fd);
}

/* The error that the operation shall end with; 0 lets it pass, -1 kills. */
static int fault(const char *op, const char *path) {
    const char *root = getenv("SECATEURS_FAULT_ROOT"), *wanted = getenv("SECATEURS_FAULT_OP");
    const char *number = getenv("SECATEURS_FAULT_N"), *name = getenv("SECATEURS_FAULT_ERRNO");
    char full[4400];
    if (!root || !wanted || !path) return 0;
    if (path[0] != '/') {
        char folder[4096];
        if (!getcwd(folder, sizeof folder)) return 0;
        snprintf(full, sizeof full, "%s/%.250s", folder, path);
        path = full;
    }
    if (strncmp(path, root, strlen(root)) != 0) return 0;
    if (strcmp(wanted, "any") != 0 && strcmp(wanted, op) != 0) return 0;
    long at = atomic_fetch_add(&seen, 1) + 1, nth = number ? atol(number) : 0;
    int now = nth > 0 && (at == nth || (at > nth && getenv("SECATEURS_FAULT_STICKY")));
    record(now ? "FAULT " : "", op, path);
    if (!now || !name) return 0;
    if (!strcmp(name, "KILL")) return -1;
    if (!strcmp(name, "ENOSPC")) return ENOSPC;
    if (!strcmp(name, "EACCES")) return EACCES;
    return EIO;
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

static int fails(const char *op, const char *path) {
    int error = fault(op, path);
    if (error < 0) die();
    if (error) errno = error;
    return error != 0;
}

static const char *name_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, size - 1);
    if (n <= 0) return NULL;
    path[n] = 0;
    return path;
}

#define MODE                                                                                                          \
    mode_t mode = 0;                                                                                                  \
    if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {                                                                              \
        va_list rest;                                                                                                 \
        va_start(rest, flags);                                                                                        \
        mode = va_arg(rest, mode_t);                                                                                  \
        va_end(rest);                                                                                                 \
    }

static const char *kind(int flags) { return (flags & (O_WRONLY | O_RDWR | O_CREAT)) ? "open-write" : "open-read"; }

int open(const char *path, int flags, ...) {
    MODE
    if (fails(kind(flags), path)) return -1;
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE
    if (fails(kind(flags), path)) return -1;
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

/* What a path below an open folder is called; the text lies in `full`. */
static const char *below(int folder, const char *path, char *full, size_t size) {
    char name[4096];
    if (folder == AT_FDCWD || path[0] == '/' || !name_of(folder, name, sizeof name)) return path;
    snprintf(full, size, "%s/%.250s", name, path);
    return full;
}

int openat(int folder, const char *path, int flags, ...) {
    MODE
    char full[4400];
    if (fails(kind(flags), below(folder, path, full, sizeof full))) return -1;
    return syscall(SYS_openat, folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
    MODE
    char full[4400];
    if (fails(kind(flags), below(folder, path, full, sizeof full))) return -1;
    return syscall(SYS_openat, folder, path, flags, mode);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    char path[4096];
    if (fd > 2) {
        int error = fault("write", name_of(fd, path, sizeof path));
        if (error < 0) {
            syscall(SYS_write, fd, bytes, count / 2);
            die();
        }
        if (error) {
            errno = error;
            return -1;
        }
    }
    return syscall(SYS_write, fd, bytes, count);
}

int fsync(int fd) {
    char path[4096];
    if (fails("fsync", name_of(fd, path, sizeof path))) return -1;
    return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    char path[4096];
    if (fails("fsync", name_of(fd, path, sizeof path))) return -1;
    return syscall(SYS_fdatasync, fd);
}

int rename(const char *from, const char *to) {
    if (fails("rename", to)) return -1;
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat(int a, const char *from, int b, const char *to) {
    if (fails("rename", to)) return -1;
    return syscall(SYS_renameat2, a, from, b, to, 0);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    if (fails("rename", to)) return -1;
    return syscall(SYS_renameat2, a, from, b, to, flags);
}

int mkdir(const char *path, mode_t mode) {
    if (fails("mkdir", path)) return -1;
    return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int unlink(const char *path) {
    if (fails("unlink", path)) return -1;
    return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int unlinkat(int folder, const char *path, int flags) {
    char full[4400];
    if (fails("unlink", below(folder, path, full, sizeof full))) return -1;
    return syscall(SYS_unlinkat, folder, path, flags);
}

int rmdir(const char *path) {
    if (fails("unlink", path)) return -1;
    return syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}
