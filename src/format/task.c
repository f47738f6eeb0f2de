#include "task_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void edit_free(tt_edit *edit) {
    tt_pattern_free(&edit->match);
    tt_pattern_free(&edit->then);
    free(edit->remove);
}

static void field_free(tt_field *field) {
    free(field->name);
    tt_template_free(&field->from);
    for (int i = 0; i < field->join.n_lists; i++) {
        free(field->join.names[i]);
        free(field->join.paths[i]);
    }
    tt_template_free(&field->join.item);
    free(field->join.separator);
    tt_template_free(&field->lookup.value);
    free(field->lookup.in);
    free(field->lookup.take);
    edit_free(&field->edit);
    for (int i = 0; i < 2 * field->n_map; i++) free(field->map[i]);
    free(field->map);
    free(field->otherwise);
}

void tt_task_close(tt_task *task) {
    if (!task) return;
    tt_template_free(&task->prompt);
    tt_template_free(&task->completion);
    tt_template_free(&task->label);
    tt_template_free(&task->system);
    free(task->messages);
    for (int i = 0; i < task->n_fields; i++) field_free(&task->fields[i]);
    for (int i = 0; i < task->n_rules; i++) edit_free(&task->rules[i]);
    free(task);
}

const tt_task_settings *tt_task_settings_of(const tt_task *task) {
    return &task->settings;
}

bool tt_task_is_conversation(const tt_task *task) {
    return task->messages != NULL;
}

bool tt_task_is_scored(const tt_task *task) {
    return task->n_rules > 0;
}

void tt_example_free(tt_example *example) {
    free(example->prompt);
    free(example->completion);
    free(example->system);
    tt_conversation_free(&example->conversation);
    free(example->label);
    *example = (tt_example){0};
}

tt_status tt_task_extract(const tt_task *task, const char *generated, char **answer,
                          tt_error *err) {
    *answer = NULL;
    for (int i = 0; i < task->n_rules; i++) {
        bool found;
        char *text = strdup(generated);
        if (!text) return tt_fail(err, TT_ERR_MEMORY, "no memory for an answer");
        tt_status status = tt_edit_apply(&task->rules[i], &text, &found, err);
        if (status == TT_OK && found) {
            *answer = text;
            return TT_OK;
        }
        free(text);
        if (status != TT_OK) return status;
    }
    return TT_OK;
}

bool tt_task_equal(const tt_task *task, const char *answer, const char *label) {
    double x, y;
    long long i, j;
    switch (task->compare) {
    case TT_COMPARE_STRING:
        return strcmp(answer, label) == 0;
    case TT_COMPARE_INTEGER:
        return tt_text_integer(answer, &i) && tt_text_integer(label, &j) && i == j;
    case TT_COMPARE_NUMBER:
        return tt_text_number(answer, &x) && tt_text_number(label, &y) &&
               fabs(x - y) <= task->tolerance;
    }
    return false;
}
