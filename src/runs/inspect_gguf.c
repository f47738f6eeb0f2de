/* GGUF files. */
#include "inspect_private.h"

static void tell_value(ins_work *work, const tt_gguf_value *value) {
    ins_row(work);
    ins_text(work, "key", value->key);
    if (value->kind == TT_GGUF_TEXT)
        ins_text(work, "value", value->text);
    else if (value->kind == TT_GGUF_NUMBER)
        ins_format(work, "value", "%.10g", value->number);
    else
        ins_format(work, "value", "%llu elements", (unsigned long long)value->n);
}

tt_status ins_gguf(ins_work *work, tt_error *err) {
    tt_gguf *file;
    TT_TRY(tt_gguf_open(work->path, &file, err));
    ins_table(work, "metadata");
    for (size_t i = 0; i < tt_gguf_n_values(file); i++) tell_value(work, tt_gguf_value_at(file, i));
    for (size_t i = 0; i < tt_gguf_n_tensors(file); i++)
        if (!ins_tensor(work, tt_gguf_at(file, i), false)) break;
    tt_gguf_close(file);
    ins_own_file(work);
    return TT_OK;
}
