/* page: text that grows, shared by the parts of page (private to src/format). */
#ifndef TRIMTAB_PAGE_PRIVATE_H
#define TRIMTAB_PAGE_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct tt_page_buffer {
    char *bytes; /* zero-terminated; NULL: nothing yet */
    size_t n, capacity;
    bool lacks_memory; /* from then on nothing is added */
} tt_page_buffer;

void tt_page_put_bytes(tt_page_buffer *buffer, const char *bytes, size_t n);
void tt_page_put(tt_page_buffer *buffer, const char *markup); /* as it is: constants only */

/* Foreign text as HTML text or a quoted attribute's value. */
void tt_page_put_text(tt_page_buffer *buffer, const char *text);

/* A foreign relative path as the value of href: "./" and its bytes percent-encoded. */
void tt_page_put_path(tt_page_buffer *buffer, const char *path);

/* JSON such that no byte of it means anything to HTML. */
void tt_page_put_json(tt_page_buffer *buffer, const char *json, size_t n);

#endif
