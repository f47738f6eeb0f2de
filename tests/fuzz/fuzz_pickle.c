/* The pickle inside a file of torch.save: in an archive around it whose checksums are right, beside
 * storages "0" to "7", so that mutations get as far as the pickle's reader. The first four bytes
 * are the sizes of the storages. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "trimtab/torchfile.h"

enum { MAX_PICKLE = 1 << 16, MAX_STORAGE = 255 };

static struct {
    uint8_t bytes[MAX_PICKLE + 4096];
    size_t n;
} archive, directory;
static unsigned n_members;

static uint32_t crc32_of(const uint8_t *bytes, size_t n) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

#define PUT(to, n_bytes, number) put(to.bytes, &to.n, n_bytes, number)
static void put(uint8_t *bytes, size_t *at, int n_bytes, uint64_t number) {
    for (int i = 0; i < n_bytes; i++) bytes[(*at)++] = (uint8_t)(number >> 8 * i);
}

/* What a member's header and its entry in the directory have in common. */
static void put_facts(uint8_t *to, size_t *at, const char *name, const uint8_t *bytes, size_t n) {
    put(to, at, 2, 20); /* version, flags, stored, time, date */
    put(to, at, 8, 0);
    put(to, at, 4, crc32_of(bytes, n));
    put(to, at, 4, n);
    put(to, at, 4, n);
    put(to, at, 2, strlen(name));
    put(to, at, 2, 0);
}

static void put_member(const char *name, const uint8_t *bytes, size_t n) {
    size_t begin = archive.n, n_name = strlen(name);
    PUT(archive, 4, 0x04034b50);
    put_facts(archive.bytes, &archive.n, name, bytes, n);
    memcpy(archive.bytes + archive.n, name, n_name);
    memcpy(archive.bytes + archive.n + n_name, bytes, n);
    archive.n += n_name + n;
    PUT(directory, 4, 0x02014b50);
    PUT(directory, 2, 20);
    put_facts(directory.bytes, &directory.n, name, bytes, n);
    PUT(directory, 8, 0);
    PUT(directory, 2, 0);
    PUT(directory, 4, begin);
    memcpy(directory.bytes + directory.n, name, n_name);
    directory.n += n_name;
    n_members++;
}

static void build(const uint8_t sizes[8], const uint8_t *pickle, size_t n) {
    static const uint8_t storage[MAX_STORAGE] = {0, 0, 0x80, 0x3f};
    archive.n = directory.n = n_members = 0;
    put_member("a/data.pkl", pickle, n);
    put_member("a/byteorder", (const uint8_t *)"little", 6);
    static const char *const names[] = {"a/data/0", "a/data/1", "a/data/2", "a/data/3",
                                        "a/data/4", "a/data/5", "a/data/6", "a/data/7"};
    for (int i = 0; i < 8; i++) put_member(names[i], storage, sizes[i]);
    put_member("a/version", (const uint8_t *)"3\n", 2);
    size_t begin = archive.n;
    memcpy(archive.bytes + archive.n, directory.bytes, directory.n);
    archive.n += directory.n;
    PUT(archive, 8, 0x06054b50);
    PUT(archive, 2, n_members);
    PUT(archive, 2, n_members);
    PUT(archive, 4, directory.n);
    PUT(archive, 4, begin);
    PUT(archive, 2, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n <= 8 || n > MAX_PICKLE) return 0;
    tt_torchfile *file = NULL;
    tt_error err = {0};
    build(data, data + 8, n - 8);
    const char *path = fuzz_file("adapter.bin", archive.bytes, archive.n);
    fuzz_check_status(tt_torchfile_open(path, &file, &err), &err, file);
    FUZZ_CHECK(!strstr(err.text, "adapter.bin: zip member")); /* the archive is good */
    for (size_t i = 0; file && i < tt_torchfile_n_tensors(file); i++) {
        const tt_tensor *t = tt_torchfile_at(file, i);
        size_t n_elements = 1;
        for (int d = 0; d < t->n_dims; d++) n_elements *= (size_t)t->shape[d];
        FUZZ_CHECK(n_elements <= MAX_STORAGE / 2);
        float values[MAX_STORAGE / 2];
        tt_torchfile_read(file, t, values);
    }
    tt_torchfile_close(file);
    return 0;
}
