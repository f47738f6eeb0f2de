/* A chat template, a zero byte, then turns with zero bytes between (the first byte of each chooses
 * who speaks). What is rendered holds its supervised parts, one for every turn of the assistant. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "trimtab/chat.h"

enum { MAX_TURNS = 6 };

static void check_spans(const tt_chat_text *text) {
    size_t done = 0;
    for (int i = 0; i < text->n_spans; i++) {
        FUZZ_CHECK(text->spans[i].begin >= done && text->spans[i].end >= text->spans[i].begin);
        done = text->spans[i].end;
    }
    FUZZ_CHECK(done <= text->text.n);
    FUZZ_CHECK(text->user.begin <= text->user.end && text->user.end <= text->text.n);
    if (text->text.bytes) FUZZ_CHECK(strlen(text->text.bytes) <= text->text.n);
}

static void render(const tt_chat *chat, const tt_conversation *turns) {
    tt_chat_text text = {0};
    for (int generation = 0; generation < 2; generation++) {
        tt_error err = {0};
        tt_status status = tt_chat_render(chat, turns, turns->n, generation, &text, &err);
        FUZZ_CHECK(status == TT_OK || status == TT_ERR_FORMAT);
        fuzz_check_status(status, &err, NULL);
        if (status == TT_OK) check_spans(&text);
    }
    tt_chat_text_free(&text);
    FUZZ_CHECK(tt_conversation_answered(turns, turns->n) <= turns->n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_part first = fuzz_cut(&data, &n);
    tt_chat *chat = NULL;
    tt_error err = {0};
    tt_status status = tt_chat_open(fuzz_file("chat.cfg", first.bytes, first.n), &chat, &err);
    fuzz_check_status(status, &err, chat);
    if (!chat) return 0;
    FUZZ_CHECK(tt_chat_name(chat) && strlen(tt_chat_name(chat)) < TT_CHAT_NAME_BYTES);
    tt_conversation turns = {0};
    while (n > 0 && turns.n < MAX_TURNS) {
        char *turn = fuzz_cut_text(&data, &n);
        int speaker = (unsigned char)turn[0] % 3;
        FUZZ_CHECK(tt_conversation_add(&turns, (tt_speaker)speaker, turn[0] ? turn + 1 : turn,
                                       turn[0] == 'R' ? "thought" : NULL, NULL) == TT_OK);
        free(turn);
    }
    render(chat, &turns);
    tt_conversation_free(&turns);
    tt_chat_close(chat);
    return 0;
}
