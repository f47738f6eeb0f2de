/* faults: makes the n-th call of chosen system, memory and MPI-IO functions go wrong.
 *
 * Included once by a test program that is linked with -Wl,--wrap=<function> for each of them (the
 * list TT_FAULT_WRAPS in tests/CMakeLists.txt): the linker then sends trimtab's own calls (not
 * those of shared libraries) through the wrappers here. Nothing in the program knows of it.
 * Calls are counted from faults_arm to faults_disarm. */
#ifndef TRIMTAB_FAULTS_H
#define TRIMTAB_FAULTS_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <mpi.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum fault_kind {
    FAULT_FAIL,    /* the call fails */
    FAULT_KILL,    /* the process dies before it */
    FAULT_HOOK,    /* something happens before it, and it succeeds */
    FAULT_CORRUPT, /* a write stores other bytes and reports success (MPI_File_write_at, write) */
} fault_kind;

/* Which calls count. */
enum {
    FAULT_IN_READS = 1,
    FAULT_IN_CHANGES = 2, /* what alters something on disk */
    FAULT_IN_FILES = FAULT_IN_READS | FAULT_IN_CHANGES,
    FAULT_IN_MEMORY = 4,
    FAULT_IN_JANSSON = 8
};

static struct {
    bool armed;
    int among;
    fault_kind kind;
    int at, count;
    const char *where; /* the function that was hit */
    void (*hook)(void);
} faults;

static void faults_arm(fault_kind kind, int among, int at, void (*hook)(void)) {
    faults.kind = kind;
    faults.at = at;
    faults.count = 0;
    faults.among = among;
    faults.where = NULL;
    faults.hook = hook;
    faults.armed = true;
}

/* The function whose call went wrong, or NULL when there were fewer calls. */
static const char *faults_disarm(void) {
    const char *where = faults.where;
    faults.armed = false;
    faults.where = NULL;
    return where;
}

/* True when this call is the one that goes wrong. */
static bool fault_here(int class, const char *function) {
    if (!faults.armed || !(faults.among & class) || ++faults.count != faults.at) return false;
    faults.where = function;
    if (faults.kind == FAULT_KILL) raise(SIGKILL);
    if (faults.kind != FAULT_HOOK) return true;
    faults.armed = false;
    faults.hook();
    return false;
}

static bool fault_fails(int class, const char *function) {
    bool fails = faults.kind != FAULT_CORRUPT && fault_here(class, function);
    if (fails) errno = EIO;
    return fails;
}

static bool fault_corrupts(const char *function) {
    return faults.kind == FAULT_CORRUPT && fault_here(FAULT_IN_CHANGES, function);
}

/* --- Files ------------------------------------------------------------------------------------ */

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return fault_fails(FAULT_IN_CHANGES, "open") ? -1 : __real_open(path, flags, mode);
}

int __real_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return fault_fails(FAULT_IN_CHANGES, "openat") ? -1 : __real_openat(dir, path, flags, mode);
}

ssize_t __real_read(int fd, void *buffer, size_t n);
ssize_t __wrap_read(int fd, void *buffer, size_t n);
ssize_t __wrap_read(int fd, void *buffer, size_t n) {
    return fault_fails(FAULT_IN_READS, "read") ? -1 : __real_read(fd, buffer, n);
}

ssize_t __real_write(int fd, const void *buffer, size_t n);
ssize_t __wrap_write(int fd, const void *buffer, size_t n);
ssize_t __wrap_write(int fd, const void *buffer, size_t n) {
    if (fault_corrupts("write")) {
        char other = (char)(((const char *)buffer)[0] ^ 1);
        ssize_t put = __real_write(fd, &other, 1);
        return put == 1 && n > 1 ? 1 + __real_write(fd, (const char *)buffer + 1, n - 1) : put;
    }
    /* Half of it arrives, as on a full disk. */
    if (fault_fails(FAULT_IN_CHANGES, "write")) {
        if (__real_write(fd, buffer, n / 2) < 0) return -1;
        errno = ENOSPC;
        return -1;
    }
    return __real_write(fd, buffer, n);
}

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd) {
    return fault_fails(FAULT_IN_CHANGES, "fsync") ? -1 : __real_fsync(fd);
}

int __real_renameat(int dir, const char *from, int to_dir, const char *to);
int __wrap_renameat(int dir, const char *from, int to_dir, const char *to);
int __wrap_renameat(int dir, const char *from, int to_dir, const char *to) {
    return fault_fails(FAULT_IN_CHANGES, "renameat") ? -1 : __real_renameat(dir, from, to_dir, to);
}

int __real_mkdirat(int dir, const char *path, mode_t mode);
int __wrap_mkdirat(int dir, const char *path, mode_t mode);
int __wrap_mkdirat(int dir, const char *path, mode_t mode) {
    return fault_fails(FAULT_IN_CHANGES, "mkdirat") ? -1 : __real_mkdirat(dir, path, mode);
}

int __real_unlinkat(int dir, const char *path, int flags);
int __wrap_unlinkat(int dir, const char *path, int flags);
int __wrap_unlinkat(int dir, const char *path, int flags) {
    return fault_fails(FAULT_IN_CHANGES, "unlinkat") ? -1 : __real_unlinkat(dir, path, flags);
}

DIR *__real_fdopendir(int fd);
DIR *__wrap_fdopendir(int fd);
DIR *__wrap_fdopendir(int fd) {
    return fault_fails(FAULT_IN_READS, "fdopendir") ? NULL : __real_fdopendir(fd);
}

DIR *__real_opendir(const char *path);
DIR *__wrap_opendir(const char *path);
DIR *__wrap_opendir(const char *path) {
    return fault_fails(FAULT_IN_READS, "opendir") ? NULL : __real_opendir(path);
}

struct dirent *__real_readdir(DIR *dir);
struct dirent *__wrap_readdir(DIR *dir);
struct dirent *__wrap_readdir(DIR *dir) {
    return fault_fails(FAULT_IN_READS, "readdir") ? NULL : __real_readdir(dir);
}

void *__real_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset) {
    return fault_fails(FAULT_IN_READS, "mmap") ? MAP_FAILED
                                               : __real_mmap(at, n, protection, flags, fd, offset);
}

/* --- Memory: trimtab's own, and jansson's ----------------------------------------------------- */

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_malloc(size_t n) {
    return fault_here(FAULT_IN_MEMORY, "malloc") ? NULL : __real_malloc(n);
}

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size) {
    return fault_here(FAULT_IN_MEMORY, "calloc") ? NULL : __real_calloc(n, size);
}

void *__real_realloc(void *old, size_t n);
void *__wrap_realloc(void *old, size_t n);
void *__wrap_realloc(void *old, size_t n) {
    return fault_here(FAULT_IN_MEMORY, "realloc") ? NULL : __real_realloc(old, n);
}

static void *fault_json_malloc(size_t n) {
    return fault_here(FAULT_IN_JANSSON, "malloc of jansson") ? NULL : __real_malloc(n);
}

static inline void faults_in_jansson(void) {
    json_set_alloc_funcs(fault_json_malloc, free);
}

/* --- MPI-IO: collective calls are made all the same, so that the other ranks return ----------- */

int __real_MPI_File_open(MPI_Comm comm, const char *path, int mode, MPI_Info info, MPI_File *file);
int __wrap_MPI_File_open(MPI_Comm comm, const char *path, int mode, MPI_Info info, MPI_File *file);
int __wrap_MPI_File_open(MPI_Comm comm, const char *path, int mode, MPI_Info info, MPI_File *file) {
    bool fails = fault_fails(FAULT_IN_CHANGES, "MPI_File_open");
    int rc = __real_MPI_File_open(comm, path, mode, info, file);
    return fails ? MPI_ERR_NO_SUCH_FILE : rc;
}

int __real_MPI_File_write_at(MPI_File file, MPI_Offset at, const void *data, int n,
                             MPI_Datatype type, MPI_Status *io);
int __wrap_MPI_File_write_at(MPI_File file, MPI_Offset at, const void *data, int n,
                             MPI_Datatype type, MPI_Status *io);
int __wrap_MPI_File_write_at(MPI_File file, MPI_Offset at, const void *data, int n,
                             MPI_Datatype type, MPI_Status *io) {
    if (fault_corrupts("MPI_File_write_at")) {
        char *other = __real_malloc((size_t)n);
        memcpy(other, data, (size_t)n);
        other[n / 2] ^= 0x10;
        int rc = __real_MPI_File_write_at(file, at, other, n, type, io);
        free(other);
        return rc;
    }
    return fault_fails(FAULT_IN_CHANGES, "MPI_File_write_at")
               ? MPI_ERR_NO_SPACE
               : __real_MPI_File_write_at(file, at, data, n, type, io);
}

int __real_MPI_File_sync(MPI_File file);
int __wrap_MPI_File_sync(MPI_File file);
int __wrap_MPI_File_sync(MPI_File file) {
    bool fails = fault_fails(FAULT_IN_CHANGES, "MPI_File_sync");
    int rc = __real_MPI_File_sync(file);
    return fails ? MPI_ERR_IO : rc;
}

int __real_MPI_File_close(MPI_File *file);
int __wrap_MPI_File_close(MPI_File *file);
int __wrap_MPI_File_close(MPI_File *file) {
    bool fails = fault_fails(FAULT_IN_CHANGES, "MPI_File_close");
    int rc = __real_MPI_File_close(file);
    return fails ? MPI_ERR_IO : rc;
}

#endif
