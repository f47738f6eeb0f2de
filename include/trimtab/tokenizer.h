/* tokenizer: a Hugging Face tokenizer.json, encode and decode, token for token as HF tokenizers.
 *
 * Pipeline: added tokens are cut out (special and plain, lstrip/rstrip/single_word/normalized) ->
 * normalizer -> pre-tokenizer -> model (BPE: byte-level, or metaspace with byte fallback; or
 * Unigram) -> post-processor (BOS/EOS). Anything in the file that would change the result and is
 * not supported is refused by name at open:
 *     normalizer      Sequence Prepend Replace NFC NFD NFKC NFKD Lowercase Strip StripAccents
 *                     Precompiled
 *     pre_tokenizer   Sequence ByteLevel Split Metaspace Digits Whitespace WhitespaceSplit
 *                     Punctuation
 *     model           BPE without dropout and affixes, Unigram
 *     post_processor  Sequence ByteLevel TemplateProcessing (of one sequence)
 *     decoder         Sequence ByteLevel Replace ByteFallback Fuse Strip Metaspace
 *
 * Opened by file, the result is that of HF tokenizers' Tokenizer.from_file; opened by directory,
 * that of transformers 5.23's AutoTokenizer.from_pretrained, which reads more files and lets some
 * classes build the pipeline themselves (docs/formats.md, "Tokenizers").
 *
 * Regular expressions are Oniguruma's, translated for PCRE2 where the two differ, refused where
 * that is not possible (src/format/tokenizer_onig.h). Characters newer than the Unicode version of
 * the machine's PCRE2 and ICU are treated as HF 0.23 treats them.
 *
 * Limits: 256 MiB, ids below 2^22, no vocabulary entry with a NUL character. An added token must
 * have the id that HF gives it (the model's, or the next free one), not only one in the file.
 *
 * Thread-safe after open (encode and decode only read). Invalid UTF-8 in the text is an ERR_FORMAT
 * with its byte offset, unless the caller asked for replacement (U+FFFD, as Python's
 * errors="replace"). */
#ifndef TRIMTAB_TOKENIZER_H
#define TRIMTAB_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/status.h"

typedef struct tt_tokenizer tt_tokenizer;

/* The special tokens that a tokenizer_config.json names. */
typedef enum tt_special_token {
    TT_SPECIAL_TOKEN_BOS,
    TT_SPECIAL_TOKEN_EOS,
    TT_SPECIAL_TOKEN_UNK,
    TT_SPECIAL_TOKEN_PAD,
    TT_N_SPECIAL_TOKENS
} tt_special_token;

/* A growable list of token ids. Zero-initialise; freed by tt_ids_free. */
typedef struct tt_ids {
    int32_t *ids;
    size_t n, capacity;
} tt_ids;

/* A growable, zero-terminated text. Zero-initialise; freed by tt_text_free. */
typedef struct tt_text {
    char *bytes; /* NULL when nothing was ever written */
    size_t n, capacity;
} tt_text;

void tt_ids_free(tt_ids *ids);
tt_status tt_ids_push(tt_ids *ids, int32_t id, tt_error *err) TT_MUST_CHECK;
void tt_text_free(tt_text *text);
tt_status tt_text_append(tt_text *text, const char *bytes, size_t n, tt_error *err) TT_MUST_CHECK;

/* path: a tokenizer.json, or a directory that holds one; there tokenizer_config.json and
 * config.json (model_type) are read as well, in older directories special_tokens_map.json and
 * added_tokens.json, each if it exists. Closed by tt_tokenizer_close.
 * Errors: ERR_MISSING, ERR_FORMAT (path, key, found, expected), ERR_MEMORY. */
tt_status tt_tokenizer_open(const char *path, tt_tokenizer **out, tt_error *err) TT_MUST_CHECK;
void tt_tokenizer_close(tt_tokenizer *tokenizer);

/* Appends the ids of text[0..n_bytes) to out. with_special: run the post-processor (BOS/EOS), as
 * HF's add_special_tokens. Errors: ERR_FORMAT (invalid UTF-8 at byte), ERR_MEMORY. */
tt_status tt_tokenizer_encode(const tt_tokenizer *tokenizer, const char *text, size_t n_bytes,
                              bool with_special, tt_ids *out, tt_error *err) TT_MUST_CHECK;

/* Replaces invalid UTF-8 by U+FFFD (maximal subparts, as Python) and appends the result to out. */
tt_status tt_text_append_utf8(tt_text *out, const char *bytes, size_t n,
                              tt_error *err) TT_MUST_CHECK;

/* Only what comes before the model: added tokens, normalizer and pre-tokenizer. *n: words that the
 * model would get, and added tokens. Errors: as encode. */
tt_status tt_tokenizer_cut(const tt_tokenizer *tokenizer, const char *text, size_t n_bytes,
                           size_t *n, tt_error *err) TT_MUST_CHECK;

/* Appends the text of ids to out, as HF decode; clean_up_tokenization_spaces as the
 * directory says (transformers heeds it for Unigram only).
 * Errors: ERR_FORMAT (id outside the vocabulary), ERR_MEMORY. */
tt_status tt_tokenizer_decode(const tt_tokenizer *tokenizer, const int32_t *ids, size_t n,
                              bool skip_special, tt_text *out, tt_error *err) TT_MUST_CHECK;

/* Largest id + 1, and the id of a token's exact text (-1: none). */
int32_t tt_tokenizer_n_ids(const tt_tokenizer *tokenizer);
int32_t tt_tokenizer_find(const tt_tokenizer *tokenizer, const char *token);

/* Id of bos_token, eos_token, unk_token or pad_token of tokenizer_config.json (older directories:
 * special_tokens_map.json) or of the class's own; -1: none. Opened by file, not directory: always
 * -1. */
int32_t tt_tokenizer_special(const tt_tokenizer *tokenizer, tt_special_token which);

#endif
