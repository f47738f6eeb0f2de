/* tokenizer_private: what the files of the tokenizer share.
 *
 * A tokenizer.json becomes: a vocabulary and merges (tt_tok_model), added tokens in two sorted
 * matchers, and four flat lists of steps (nested Sequences are flattened: they only mean "one
 * after the other"). Encoding carries a tt_tok_pieces from step to step: one text and the ranges
 * of it that are still to be cut, or that are already an added token.
 *
 * The reference is the behaviour of HF tokenizers 0.23 (https://github.com/huggingface/tokenizers);
 * its quirks are kept and named where they show. */
#ifndef TRIMTAB_TOKENIZER_PRIVATE_H
#define TRIMTAB_TOKENIZER_PRIVATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/status.h"
#include "trimtab/tokenizer.h"

/* --- Text (tokenizer_text.c) ------------------------------------------------------------------ */

/* Decodes one character of s[0..n), n >= 1. Returns its bytes; or, for invalid UTF-8, minus the
 * bytes of the maximal subpart that one U+FFFD stands for (Unicode 15, section 3.9). */
int tt_tok_utf8_next(const char *s, size_t n, uint32_t *code);
/* Writes a character as UTF-8; returns 1..4. */
int tt_tok_utf8_put(char out[4], uint32_t code);
/* First byte of the character that ends at s[end) (valid UTF-8, end > 0). */
size_t tt_tok_utf8_before(const char *s, size_t end);
/* Errors: ERR_FORMAT with the offset of the first invalid byte. */
tt_status tt_tok_utf8_check(const char *s, size_t n, tt_error *err) TT_MUST_CHECK;

/* Grows *data (elements of `size` bytes) to hold at least n; doubles. Errors: ERR_MEMORY. */
tt_status tt_tok_reserve(void **data, size_t *capacity, size_t n, size_t size,
                         tt_error *err) TT_MUST_CHECK;

/* --- Characters (tokenizer_unicode.c) --------------------------------------------------------- */

/* The references see different Unicode versions: Oniguruma 16, Rust 17, its normalization tables
 * 11, its punctuation table 8. ICU gives the properties; differences are in tables there. */
bool tt_tok_is_space(uint32_t code);       /* White_Space */
bool tt_tok_is_numeric(uint32_t code);     /* Nd, Nl, No */
bool tt_tok_is_punctuation(uint32_t code); /* ASCII punctuation or P* of Unicode 8 */
bool tt_tok_is_word(uint32_t code);        /* \w of Rust's regex */
bool tt_tok_is_mark(uint32_t code);        /* M* of Unicode 9 */
uint32_t tt_tok_lower(uint32_t code);      /* one character; U+0130 (two) is the caller's */
/* Appends to out, as items of a PCRE2 class, the ranges of general category `name` (one or two
 * letters) that are newer than Unicode 14. */
tt_status tt_tok_append_new_ranges(tt_text *out, const char *name, tt_error *err) TT_MUST_CHECK;

/* The same for a script: class items, or NULL for a script that is not in the table. */
const char *tt_tok_new_in_script(const char *name);

/* --- Patterns (tokenizer_regex.c) ------------------------------------------------------------- */

/* A literal text, or an Oniguruma expression compiled by PCRE2. */
typedef struct tt_tok_pattern {
    tt_text literal; /* n > 0: a literal */
    void *code;      /* pcre2_code */
} tt_tok_pattern;

typedef struct tt_tok_match {
    size_t start, end;
    bool hit; /* matched, or the text between matches */
} tt_tok_match;

/* Hits and what lies between them: covers the whole text in order. */
typedef struct tt_tok_matches {
    tt_tok_match *v;
    size_t n, capacity;
} tt_tok_matches;

tt_status tt_tok_matches_push(tt_tok_matches *matches, size_t start, size_t end, bool hit,
                              tt_error *err) TT_MUST_CHECK;

/* Oniguruma's language differs from PCRE2's: every construct is either translated to the same
 * meaning or refused. Errors: ERR_FORMAT (what is not supported, at which byte), ERR_MEMORY. */
tt_status tt_tok_pattern_compile(const char *source, size_t n, tt_tok_pattern *out,
                                 tt_error *err) TT_MUST_CHECK;
void tt_tok_pattern_free(tt_tok_pattern *pattern);
/* Replaces *out by the cover of text[0..n). Errors: ERR_FORMAT (match limit), ERR_MEMORY. */
tt_status tt_tok_pattern_find(const tt_tok_pattern *pattern, const char *text, size_t n,
                              tt_tok_matches *out, tt_error *err) TT_MUST_CHECK;

/* --- SentencePiece's normalization rules (tokenizer_charsmap.c, tokenizer_cluster.c) ------------
 */

typedef struct tt_tok_charsmap tt_tok_charsmap;

/* at: the normalizer's key, for messages. Closed by tt_tok_charsmap_close.
 * Errors: ERR_FORMAT (not base64, lengths, texts that are not UTF-8), ERR_MEMORY. */
tt_status tt_tok_charsmap_open(const char *base64, const char *at, tt_tok_charsmap **out,
                               tt_error *err) TT_MUST_CHECK;
void tt_tok_charsmap_close(tt_tok_charsmap *map);
/* Sets out, which is empty, to bytes[0..n) (valid UTF-8) as the rules change it; n_first as in
 * tt_tok_piece. Errors: ERR_FORMAT (a rule leads out of the table), ERR_MEMORY. */
tt_status tt_tok_charsmap_append(const tt_tok_charsmap *map, const char *bytes, size_t n,
                                 size_t *n_first, tt_text *out, tt_error *err) TT_MUST_CHECK;
/* Bytes of the grapheme cluster that s[0..n) begins with, n >= 1. */
size_t tt_tok_cluster(const char *s, size_t n);

/* --- Steps ------------------------------------------------------------------------------------ */

typedef enum tt_tok_kind {
    /* normalizers */
    TT_TOK_PREPEND,
    TT_TOK_REPLACE, /* also a decoder */
    TT_TOK_NFC,
    TT_TOK_NFD,
    TT_TOK_NFKC,
    TT_TOK_NFKD,
    TT_TOK_LOWERCASE,
    TT_TOK_STRIP,
    TT_TOK_STRIP_ACCENTS,
    TT_TOK_PRECOMPILED,
    /* pre-tokenizers */
    TT_TOK_BYTE_LEVEL, /* also a decoder */
    TT_TOK_SPLIT,
    TT_TOK_METASPACE, /* also a decoder */
    TT_TOK_DIGITS,
    TT_TOK_WHITESPACE,
    TT_TOK_WHITESPACE_SPLIT,
    TT_TOK_PUNCTUATION,
    /* decoders */
    TT_TOK_BYTE_FALLBACK,
    TT_TOK_FUSE,
    TT_TOK_STRIP_CHAR
} tt_tok_kind;

typedef enum tt_tok_behavior {
    TT_TOK_REMOVED,
    TT_TOK_ISOLATED,
    TT_TOK_MERGED_WITH_PREVIOUS,
    TT_TOK_MERGED_WITH_NEXT,
    TT_TOK_CONTIGUOUS
} tt_tok_behavior;

typedef enum tt_tok_prepend { TT_TOK_ALWAYS, TT_TOK_FIRST, TT_TOK_NEVER } tt_tok_prepend;

typedef struct tt_tok_step {
    tt_tok_kind kind;
    tt_tok_pattern pattern;    /* REPLACE, SPLIT, BYTE_LEVEL with use_regex */
    tt_text content;           /* PREPEND, REPLACE; the one character of METASPACE, STRIP_CHAR */
    tt_tok_behavior behavior;  /* SPLIT, DIGITS, PUNCTUATION */
    tt_tok_prepend prepend;    /* METASPACE */
    bool invert;               /* SPLIT */
    bool split;                /* METASPACE; BYTE_LEVEL: has a pattern */
    bool prefix_space;         /* BYTE_LEVEL */
    bool left, right;          /* STRIP */
    int64_t start, stop;       /* STRIP_CHAR: at most so many */
    void *normalizer;          /* NF*: UNormalizer2, owned */
    tt_tok_charsmap *charsmap; /* PRECOMPILED, owned */
} tt_tok_step;

typedef struct tt_tok_steps {
    tt_tok_step *v;
    size_t n, capacity;
} tt_tok_steps;

/* Readers of tokenizer.json's sections (tokenizer_steps.c). section: null or an object; at: its
 * key, for messages. */
tt_status tt_tok_read_normalizers(const json_t *section, const char *at, tt_tok_steps *out,
                                  tt_error *err) TT_MUST_CHECK;
tt_status tt_tok_read_pre_tokenizers(const json_t *section, const char *at, tt_tok_steps *out,
                                     tt_error *err) TT_MUST_CHECK;
tt_status tt_tok_read_decoders(const json_t *section, const char *at, tt_tok_steps *out,
                               tt_error *err) TT_MUST_CHECK;
void tt_tok_steps_free(tt_tok_steps *steps);

/* --- JSON (tokenizer_json.c): typed members; a wrong or missing one is "key: found, expected" --
 */

const char *tt_tok_json_type(const json_t *value);
tt_status tt_tok_json_text(const json_t *object, const char *at, const char *key, const char **out,
                           tt_error *err) TT_MUST_CHECK;
/* Absent or null: the default (mandatory: an error). */
tt_status tt_tok_json_flag(const json_t *object, const char *at, const char *key, bool mandatory,
                           bool *out, tt_error *err) TT_MUST_CHECK;
tt_status tt_tok_json_array(const json_t *object, const char *at, const char *key,
                            const json_t **out, tt_error *err) TT_MUST_CHECK;
/* An integer 0..most. */
tt_status tt_tok_json_number(const json_t *value, const char *at, const char *key, int64_t most,
                             int64_t *out, tt_error *err) TT_MUST_CHECK;

/* --- Model (tokenizer_model.c, tokenizer_bpe.c, tokenizer_unigram.c)
 * ----------------------------------------------- */

enum {
    TT_TOK_MAX_IDS = 1 << 22, /* largest id + 1; tables are as long as the largest id */
    TT_TOK_N_DIRECT = 0x300   /* characters below are looked up in a table */
};

/* Texts to ids: open addressing over token indices, texts in one block. */
typedef struct tt_tok_words {
    tt_text texts;  /* all texts, one after the other */
    size_t *start;  /* [n_ids] offset of a text, SIZE_MAX: no such id */
    size_t *length; /* [n_ids] */
    int32_t *slots; /* [n_slots] id or -1 */
    size_t n_slots, n_words;
    int32_t n_ids;
} tt_tok_words;

typedef struct tt_tok_merge {
    int32_t left, right; /* left < 0: empty slot */
    int32_t rank, id;
} tt_tok_merge;

typedef struct tt_tok_model {
    bool unigram; /* else BPE */
    tt_tok_words words;
    tt_tok_merge *merges; /* [n_merge_slots] open addressing over (left, right) */
    size_t n_merge_slots;
    int32_t direct[TT_TOK_N_DIRECT]; /* id of a one-character token, or -1 */
    int32_t bytes[256];              /* id of "<0xNN>", or -1 */
    char *unk_token;                 /* NULL: none */
    int32_t unk_id;                  /* -1: unk_token is not in the vocabulary */
    bool fuse_unk, byte_fallback, ignore_merges;

    double *scores;       /* Unigram from here: [n_ids] */
    double unknown_score; /* of a character that no token covers */
    int32_t *sorted;      /* [n_sorted] ids by text */
    size_t n_sorted;
    size_t first[257]; /* [byte] first of sorted that begins with this byte or a larger one */
} tt_tok_model;

/* exact_scores: Unigram's as written, not as HF's reader of files rounds them. */
tt_status tt_tok_model_read(const json_t *object, bool exact_scores, tt_tok_model *out,
                            tt_error *err) TT_MUST_CHECK;
tt_status tt_tok_unigram_read(const json_t *object, bool exact_scores, tt_tok_model *out,
                              tt_error *err) TT_MUST_CHECK;
tt_status tt_tok_words_create(size_t n_words, int32_t n_ids, tt_tok_words *out,
                              tt_error *err) TT_MUST_CHECK;
/* A text given twice is found by its last id. Errors: ERR_FORMAT (an id given twice). */
tt_status tt_tok_words_add(tt_tok_words *words, const char *text, size_t n, int32_t id,
                           tt_error *err) TT_MUST_CHECK;
void tt_tok_model_free(tt_tok_model *model);
int32_t tt_tok_words_find(const tt_tok_words *words, const char *text, size_t n);
const tt_tok_merge *tt_tok_merge_find(const tt_tok_model *model, int32_t left, int32_t right);

/* Buffers of one encode call, reused from word to word. */
typedef struct tt_tok_symbol {
    int32_t id;
    size_t prev, next; /* SIZE_MAX: none */
    bool gone;         /* merged into the one before */
} tt_tok_symbol;

typedef struct tt_tok_candidate {
    size_t position;
    int32_t rank, id;
} tt_tok_candidate;

/* The best way to a place in a word: its last token, and where that starts (SIZE_MAX: none). */
typedef struct tt_tok_node {
    double score;
    size_t start;
    int32_t id;
} tt_tok_node;

typedef struct tt_tok_scratch {
    tt_tok_node *nodes;
    size_t nodes_capacity;
    tt_tok_symbol *symbols;
    size_t n_symbols, symbols_capacity;
    tt_tok_candidate *heap;
    size_t n_heap, heap_capacity;
} tt_tok_scratch;

void tt_tok_scratch_free(tt_tok_scratch *scratch);
/* Append the ids of one word (valid UTF-8). BPE: O(n log n). */
tt_status tt_tok_bpe(const tt_tok_model *model, const char *word, size_t n, tt_tok_scratch *scratch,
                     tt_ids *out, tt_error *err) TT_MUST_CHECK;
tt_status tt_tok_unigram(const tt_tok_model *model, const char *word, size_t n,
                         tt_tok_scratch *scratch, tt_ids *out, tt_error *err) TT_MUST_CHECK;

/* --- Pieces (tokenizer_pieces.c, tokenizer_normalize.c, tokenizer_pretokenize.c) -------------- */

typedef struct tt_tok_piece {
    size_t start, n; /* in the text of its list */
    size_t n_first;  /* leading bytes that stem from the first character of the input: HF's
                        "offset 0", all that Metaspace "first" asks for */
    int32_t id;      /* an added token, or -1: still to be cut */
} tt_tok_piece;

typedef struct tt_tok_pieces {
    tt_text text;
    tt_tok_piece *v;
    size_t n, capacity;
} tt_tok_pieces;

void tt_tok_pieces_free(tt_tok_pieces *pieces);
/* Appends a copy of bytes as a piece (nothing when n = 0 and id < 0). */
tt_status tt_tok_pieces_push(tt_tok_pieces *pieces, const char *bytes, size_t n, size_t n_first,
                             int32_t id, tt_error *err) TT_MUST_CHECK;

/* Runs the normalizers over text in place; n_first as in tt_tok_piece. */
tt_status tt_tok_normalize(const tt_tok_steps *steps, tt_text *text, size_t *n_first,
                           tt_error *err) TT_MUST_CHECK;
tt_status tt_tok_normalizer_open(tt_tok_kind kind, void **out, tt_error *err) TT_MUST_CHECK;
void tt_tok_normalizer_close(void *normalizer);
/* Replaces what pattern matches in text by content. */
tt_status tt_tok_replace(const tt_tok_pattern *pattern, const tt_text *content, tt_text *text,
                         size_t *n_first, tt_error *err) TT_MUST_CHECK;

/* Runs the pre-tokenizers over pieces in place. */
tt_status tt_tok_pre_tokenize(const tt_tok_steps *steps, tt_tok_pieces *pieces,
                              tt_error *err) TT_MUST_CHECK;

/* The byte-level alphabet (GPT-2): a printable character for each byte, and back (-1: not one). */
uint32_t tt_tok_byte_to_char(unsigned char byte);
int tt_tok_char_to_byte(uint32_t code);

/* --- Added tokens (tokenizer_added.c) --------------------------------------------------------- */

typedef struct tt_tok_added {
    int32_t id;
    tt_text content;
    tt_text changed; /* content, normalized */
    bool single_word, lstrip, rstrip, normalized, special;
    bool was_special;    /* by any mention of the token: left out by skip_special */
    bool was_normalized; /* by any mention: decoded as `changed` */
} tt_tok_added;

typedef struct tt_tok_match_text {
    const tt_text *text;
    const tt_tok_added *token;
} tt_tok_match_text;

/* Texts of added tokens, sorted: leftmost-longest search narrows a range byte by byte. */
typedef struct tt_tok_matcher {
    tt_tok_match_text *v; /* borrows the list of added tokens */
    size_t n;
} tt_tok_matcher;

typedef struct tt_tok_added_list {
    tt_tok_added *v;
    size_t n, capacity;
    tt_tok_matcher raw, normalized;
} tt_tok_added_list;

void tt_tok_added_token_free(tt_tok_added *token);
/* Reads the tokens of tokenizer.json (NULL: none). */
tt_status tt_tok_added_read(const json_t *array, const tt_tok_model *model, tt_tok_added_list *out,
                            tt_error *err) TT_MUST_CHECK;
/* Adds a token as HF does: numbers it if its text is new, else its flags replace the old ones.
 * Takes token's texts in any case. expected: the id it must get, or -1; at: its key. */
tt_status tt_tok_added_push(tt_tok_added_list *list, const tt_tok_model *model, tt_tok_added *token,
                            int64_t expected, const char *at, tt_error *err) TT_MUST_CHECK;
const tt_tok_added *tt_tok_added_find(const tt_tok_added_list *list, const char *text, size_t n);
/* When all are there: builds the matchers. */
tt_status tt_tok_added_finish(tt_tok_added_list *list, const tt_tok_steps *normalizers,
                              tt_error *err) TT_MUST_CHECK;
void tt_tok_added_free(tt_tok_added_list *list);
/* Appends text[0..n) to out, cut at the matcher's tokens. */
tt_status tt_tok_added_split(const tt_tok_matcher *matcher, const char *text, size_t n,
                             size_t n_first, tt_tok_pieces *out, tt_error *err) TT_MUST_CHECK;

/* --- What stands beside tokenizer.json (tokenizer_config.c, tokenizer_class.c) -----------------
 */

/* A directory means what AutoTokenizer.from_pretrained of transformers 5.23 makes of it. There some
 * classes take no more than vocabulary and merges from tokenizer.json and build the rest
 * themselves: their pipelines replace the file's sections before these are read. */
typedef enum tt_tok_class {
    TT_TOK_FILE, /* tokenizer.json as it is */
    TT_TOK_LLAMA,
    TT_TOK_GEMMA,
    TT_TOK_QWEN2,
    TT_TOK_GPT2,
    TT_TOK_T5,
    TT_TOK_N_CLASSES
} tt_tok_class;

/* A token to add after those of tokenizer.json. */
typedef struct tt_tok_wish {
    tt_tok_added token;
    int64_t id;  /* that it must get, or -1 */
    bool if_new; /* only when no token before has its text */
    bool plain;  /* given as a text, without flags */
} tt_tok_wish;

typedef struct tt_tok_config {
    tt_tok_class class;
    bool prefix_space, legacy;   /* add_prefix_space, legacy, as the class takes them */
    bool clean_up, clean_up_bpe; /* clean_up_tokenization_spaces: Unigram, BPE */
    tt_tok_wish *wishes;         /* in the order of their adding */
    size_t n_wishes, wishes_capacity;
    char *specials[TT_N_SPECIAL_TOKENS]; /* texts, owned; NULL: not named */
} tt_tok_config;

/* Reads dir's tokenizer_config.json, config.json (model_type), and in older directories
 * special_tokens_map.json and added_tokens.json; each may be missing. file: tokenizer.json;
 * has_byte_level: its text has the word "ByteLevel". */
tt_status tt_tok_config_read(const char *dir, const json_t *file, bool has_byte_level,
                             tt_tok_config *out, tt_error *err) TT_MUST_CHECK;
void tt_tok_config_free(tt_tok_config *config);

/* name: the tokenizer_class, or NULL. Errors: ERR_FORMAT (a class that is not done here). */
tt_status tt_tok_class_find(const char *model_type, const char *name, bool has_byte_level,
                            tt_tok_class *out, tt_error *err) TT_MUST_CHECK;
/* Replaces the sections of file that the class sets itself. */
tt_status tt_tok_class_apply(const tt_tok_config *config, json_t *file,
                             tt_error *err) TT_MUST_CHECK;
/* The class's bos_token, ... where tokenizer_config.json has no such key; NULL: none. */
const char *tt_tok_class_default(tt_tok_class class, const char *key);

/* --- The whole -------------------------------------------------------------------------------- */

/* One piece of the post-processor's template: ids, or the sequence itself. */
typedef struct tt_tok_template_piece {
    bool sequence;
    tt_ids ids;
} tt_tok_template_piece;

typedef struct tt_tok_template {
    tt_tok_template_piece *v; /* NULL: no template */
    size_t n;
} tt_tok_template;

tt_status tt_tok_template_read(const json_t *section, int32_t n_ids, tt_tok_template *out,
                               tt_error *err) TT_MUST_CHECK;
void tt_tok_template_free(tt_tok_template *post);

typedef struct tt_tok_entry {
    const char *text; /* NULL: no such id */
    size_t n;
    bool special; /* left out by skip_special */
} tt_tok_entry;

struct tt_tokenizer {
    tt_tok_model model;
    tt_tok_added_list added;
    tt_tok_steps normalizers, pre_tokenizers, decoders;
    bool has_decoder; /* else decode joins tokens by spaces */
    bool clean_up;    /* of decoded text: no space before punctuation */
    tt_tok_template post;
    int32_t specials[TT_N_SPECIAL_TOKENS]; /* ids or -1 */
    tt_tok_entry *entries;                 /* [n_ids] texts to decode */
    int32_t n_ids;
};

#endif
