/* A task file, a zero byte, and records (JSON, separated by zero bytes): what the task renders, it
 * can score. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "trimtab/task.h"

static void score(const tt_task *task, const char *generated, const char *label) {
    char *answer = NULL;
    tt_error err = {0};
    tt_status status = tt_task_extract(task, generated, &answer, &err);
    fuzz_check_status(status, &err, answer);
    if (answer && label) (void)tt_task_equal(task, answer, label);
    free(answer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_part first = fuzz_cut(&data, &n);
    tt_task *task = NULL;
    tt_error err = {0};
    tt_status status = tt_task_open(fuzz_file("task.cfg", first.bytes, first.n), &task, &err);
    fuzz_check_status(status, &err, task);
    for (int i = 0; task && n > 0 && i < 8; i++) {
        fuzz_part record = fuzz_cut(&data, &n);
        tt_example example = {0};
        err = (tt_error){0};
        status = tt_task_render(task, record.bytes, record.n, &example, &err);
        fuzz_check_status(status, &err, example.prompt);
        FUZZ_CHECK(status != TT_OK || !tt_task_is_conversation(task) ||
                   tt_conversation_answered(&example.conversation, example.conversation.n) > 0);
        if (status == TT_OK && !tt_task_is_conversation(task)) {
            FUZZ_CHECK(example.prompt && example.completion);
            score(task, example.completion, example.label);
        }
        if (status == TT_OK && tt_task_is_scored(task)) {
            FUZZ_CHECK(example.label);
            score(task, "The answer is (B). #### 1,234.5 <answer>7</answer>", example.label);
        }
        tt_example_free(&example);
    }
    tt_task_close(task);
    return 0;
}
