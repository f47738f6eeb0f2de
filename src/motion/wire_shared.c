/* Memory that neighbours of one node share. */
#define _GNU_SOURCE /* memfd_create */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "trimtab/process.h"
#include "wire_private.h"

enum { TAG_LINK = 7, PAGE_BYTES = 4096 };

/* Begins the memory; behind it, from the next page on, the buffers of x, then those of d. */
typedef struct head {
    tt_wire_count x_written, x_read, d_written, d_read;
    uint64_t stamp; /* tells it from any other memory */
} head;
_Static_assert(sizeof(head) <= PAGE_BYTES, "buffers begin behind it");

/* What the lower stage tells the upper one. */
typedef struct offer {
    int64_t process, file, n_bytes;
    uint64_t stamp;
    int32_t node, good;
} offer;

static size_t page_up(size_t n) {
    return (n + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

static size_t buffer_bytes(const tt_wire_shape *shape) {
    return page_up(tt_wire_room(shape) * sizeof(float));
}

/* Of the link between that stage and the next. */
static size_t link_bytes(const tt_wire_shape *shape, int lower) {
    size_t ways = tt_wire_has_d(shape, lower) ? 2 : 1;
    return PAGE_BYTES + ways * TT_WIRE_BUFFERS * buffer_bytes(shape);
}

static void lay_out(const tt_wire_shape *shape, int lower, tt_wire_link *link) {
    head *h = link->memory;
    char *at = (char *)link->memory + PAGE_BYTES;
    size_t n = buffer_bytes(shape);
    link->x = (tt_wire_lane){&h->x_written, &h->x_read, {NULL}};
    for (int b = 0; b < TT_WIRE_BUFFERS; b++, at += n) link->x.buffer[b] = (float *)at;
    if (!tt_wire_has_d(shape, lower)) return;
    link->d = (tt_wire_lane){&h->d_written, &h->d_read, {NULL}};
    for (int b = 0; b < TT_WIRE_BUFFERS; b++, at += n) link->d.buffer[b] = (float *)at;
}

static bool map(int file, size_t n_bytes, tt_wire_link *link) {
    void *memory = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) return false;
    *link = (tt_wire_link){.memory = memory, .n_bytes = n_bytes};
    return true;
}

/* Its pages are reserved now: none can be missing when it is first written. Sealed, nobody who
 * opens it can take them away again. */
static int make_file(size_t n_bytes) {
    int file = memfd_create("trimtab-wire", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (file < 0) return -1;
    int failed = posix_fallocate(file, 0, (off_t)n_bytes);
    if (failed == 0 && fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        failed = errno;
    if (failed == 0) return file;
    close(file);
    errno = failed;
    return -1;
}

/* The lower stage: memory for both. *file is to be closed once the other has it. */
static offer make_offer(const tt_world *w, const tt_wire_shape *shape, tt_wire_link *above,
                        int *file, char *why) {
    offer o = {.process = getpid(), .node = w->node_index};
    o.n_bytes = (int64_t)link_bytes(shape, w->stage);
    o.stamp = (uint64_t)(tt_process_seconds() * 1e9) ^ (uint64_t)o.process << 40 ^
              (uint64_t)w->rank << 20;
    *file = make_file((size_t)o.n_bytes);
    o.file = *file;
    o.good = *file >= 0 && map(*file, (size_t)o.n_bytes, above);
    if (!o.good) {
        snprintf(why, TT_WIRE_WHY_BYTES, "no %lld bytes of memory to share: %s",
                 (long long)o.n_bytes, strerror(errno));
        return o;
    }
    ((head *)above->memory)->stamp = o.stamp;
    return o;
}

/* The upper stage: is what is behind that number what was offered? Another container may have other
 * processes under the same numbers. */
static bool take_offer(const tt_wire_shape *shape, const offer *o, tt_wire_link *below, char *why) {
    char path[64];
    struct stat info;
    snprintf(path, sizeof path, "/proc/%lld/fd/%lld", (long long)o->process, (long long)o->file);
    bool fits = o->n_bytes == (int64_t)link_bytes(shape, shape->stage - 1);
    int file = fits ? open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK) : -1;
    bool good = file >= 0 && fstat(file, &info) == 0 && S_ISREG(info.st_mode) &&
                info.st_size == (off_t)o->n_bytes && map(file, (size_t)o->n_bytes, below);
    if (!good) snprintf(why, TT_WIRE_WHY_BYTES, "cannot map %s: %s", path, strerror(errno));
    if (file >= 0) close(file);
    if (good && ((const head *)below->memory)->stamp != o->stamp) {
        snprintf(why, TT_WIRE_WHY_BYTES, "%s is another process's", path);
        tt_wire_unlink(below);
        good = false;
    }
    return good;
}

void tt_wire_link_up(const tt_world *w, const tt_wire_shape *shape, tt_wire_link *above,
                     tt_wire_link *below, char why[TT_WIRE_WHY_BYTES]) {
    int up = w->stage < w->n_stages - 1 ? w->stage + 1 : MPI_PROC_NULL;
    int down = w->stage > 0 ? w->stage - 1 : MPI_PROC_NULL;
    int file = -1, taken = 0, was_taken = 0, node = w->node_index, node_above = -1;
    offer mine = {0}, theirs = {0};
    *above = *below = (tt_wire_link){0};
    if (!shape->options.shared_memory || w->n_stages == 1) return;
    MPI_Sendrecv(&node, 1, MPI_INT, down, TAG_LINK, &node_above, 1, MPI_INT, up, TAG_LINK, w->pipe,
                 MPI_STATUS_IGNORE);
    if (up != MPI_PROC_NULL && node_above == node) mine = make_offer(w, shape, above, &file, why);
    MPI_Sendrecv(&mine, sizeof mine, MPI_BYTE, up, TAG_LINK, &theirs, sizeof theirs, MPI_BYTE, down,
                 TAG_LINK, w->pipe, MPI_STATUS_IGNORE);
    if (theirs.good) taken = take_offer(shape, &theirs, below, why);
    MPI_Sendrecv(&taken, 1, MPI_INT, down, TAG_LINK, &was_taken, 1, MPI_INT, up, TAG_LINK, w->pipe,
                 MPI_STATUS_IGNORE);
    if (file >= 0) close(file);
    if (above->memory && !was_taken) tt_wire_unlink(above);
    if (above->memory) lay_out(shape, w->stage, above);
    if (below->memory) lay_out(shape, w->stage - 1, below);
}

void tt_wire_unlink(tt_wire_link *link) {
    if (link->memory) munmap(link->memory, link->n_bytes);
    *link = (tt_wire_link){0};
}
