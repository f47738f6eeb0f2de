#include "trimtab/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int tt_control_bytes(const char *text) {
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f) return 2;
    return (p[0] != 0 && p[0] < ' ') || p[0] == 0x7f;
}

/* Foreign bytes in a message must not command the terminal that shows it. */
static void disarm(char *text) {
    for (int n; *text; text += n ? n : 1) {
        n = *text == '\n' ? 0 : tt_control_bytes(text);
        memset(text, '?', (size_t)n);
    }
}

void tt_fail_at(tt_error *err, tt_status status, const char *file, int line, const char *format,
                ...) {
    if (!err) return;
    err->status = status;
    err->origin_file = file;
    err->origin_line = line;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    disarm(err->text);
}

tt_status tt_error_prefix(tt_error *err, const char *format, ...) {
    if (!err) return TT_ERR_INTERNAL;
    if (err->status == TT_OK) return TT_OK;
    char joined[TT_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(joined, sizeof joined, format, args);
    va_end(args);
    if (n > 0 && (size_t)n < sizeof joined)
        snprintf(joined + n, sizeof joined - (size_t)n, ": %s", err->text);
    memcpy(err->text, joined, sizeof joined);
    disarm(err->text);
    return err->status;
}

const char *tt_status_text(tt_status status) {
    switch (status) {
#define TT_STATUS_TEXT(name, exit_code, text)                                                      \
    case TT_##name:                                                                                \
        return text;
        TT_STATUS_LIST(TT_STATUS_TEXT)
#undef TT_STATUS_TEXT
    case TT_N_STATUS:
        break;
    }
    return "unknown status";
}

int tt_status_exit_code(tt_status status) {
    switch (status) {
#define TT_STATUS_EXIT(name, exit_code, text)                                                      \
    case TT_##name:                                                                                \
        return exit_code;
        TT_STATUS_LIST(TT_STATUS_EXIT)
#undef TT_STATUS_EXIT
    case TT_N_STATUS:
        break;
    }
    return tt_status_exit_code(TT_ERR_INTERNAL);
}
