/* status: how anything in trimtab fails.
 *
 * A function that can fail for an outside reason returns tt_status and takes a caller-owned
 * tt_error as its last argument (NULL is allowed). The status says what kind of failure it was
 * and which exit code the process ends with; the error carries one sentence for a person:
 * "path[:line]: key or tensor: what was found, what was expected".
 *
 *     if (n != expected)
 *         return tt_fail(err, TT_ERR_FORMAT, "%s: got %d layers, expected %d", path, n, expected);
 *     TT_TRY(tt_file_map(path, limit, &map, err));
 *
 * Nothing below the door (src/door) prints or exits. */
#ifndef TRIMTAB_STATUS_H
#define TRIMTAB_STATUS_H

/* name, process exit code, text. Numbers follow sysexits(3) where it has a meaning. */
#define TT_STATUS_LIST(X)                                                                          \
    X(OK, 0, "ok")                                                                                 \
    X(ERR_USAGE, 64, "wrong command line")                                                         \
    X(ERR_FORMAT, 65, "malformed input")                                                           \
    X(ERR_MISSING, 66, "missing file or tensor")                                                   \
    X(ERR_INTERNAL, 70, "internal error")                                                          \
    X(ERR_MEMORY, 71, "out of memory")                                                             \
    X(ERR_IO, 74, "input/output error")                                                            \
    X(INTERRUPTED, 75, "stopped on request after a checkpoint")                                    \
    X(ERR_NUMERIC, 76, "numbers are no longer finite")                                             \
    X(ERR_FENCED, 77, "a newer life of this run has taken over")                                   \
    X(ERR_CONFIG, 78, "bad job file")                                                              \
    X(ERR_STALLED, 79, "a rank or node stopped responding")

typedef enum tt_status {
#define TT_STATUS_ENUM(name, exit_code, text) TT_##name,
    TT_STATUS_LIST(TT_STATUS_ENUM)
#undef TT_STATUS_ENUM
        TT_N_STATUS
} tt_status;

#define TT_MUST_CHECK                    __attribute__((warn_unused_result))
#define TT_PRINTF(format_arg, first_arg) __attribute__((format(printf, format_arg, first_arg)))

enum { TT_ERROR_TEXT_BYTES = 4096 };

/* Bytes of the control character that text begins with: 1 (C0, DEL), 2 (C1 in UTF-8: U+0080 to
 * U+009F), or 0. Printed, it could command the terminal. */
int tt_control_bytes(const char *text);

/* What went wrong, for a person. Owned by the caller; `text` is always terminated, and control
 * characters in it other than line ends are question marks, whatever file they came from. Long
 * enough for a list of problems (one a line), since a job file reports all of its problems at once.
 */
typedef struct tt_error {
    tt_status status;
    const char *origin_file; /* source file that reported it (static string) */
    int origin_line;
    char text[TT_ERROR_TEXT_BYTES];
} tt_error;

/* Fills err (if not NULL) and is the status, so that one line reports and returns. (The macro,
 * not the function, yields the status: compilers then see that it is not OK.) */
#define tt_fail(err, status, ...)                                                                  \
    (tt_fail_at(err, status, __FILE__, __LINE__, __VA_ARGS__), (status))
void tt_fail_at(tt_error *err, tt_status status, const char *file, int line, const char *format,
                ...) TT_PRINTF(5, 6);

/* Puts "prefix: " before err's text; does nothing when err is NULL or holds no error. Returns
 * err's status. */
tt_status tt_error_prefix(tt_error *err, const char *format, ...) TT_PRINTF(2, 3);

/* Constant texts and exit codes of the list above. */
const char *tt_status_text(tt_status status);
int tt_status_exit_code(tt_status status);

/* Returns from the calling function when `call` failed. The only flow macro. */
#define TT_TRY(call)                                                                               \
    do {                                                                                           \
        tt_status tt_try_status = (call);                                                          \
        if (tt_try_status != TT_OK) return tt_try_status;                                          \
    } while (0)

#endif
