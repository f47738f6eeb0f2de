/* A made-up language: words of two to four syllables, some much more frequent than others, and the
 * tokenizer.json of one who has learnt it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_private.h"
#include "trimtab/file.h"
#include "trimtab/rng.h"

enum { N_WORDS = 4096, WORD_BYTES = 16, LINE_WORDS = 12, LONGEST = 64 };

typedef struct lexicon {
    char word[N_WORDS][WORD_BYTES];
} lexicon;

static void make_word(uint64_t i, char out[WORD_BYTES]) {
    static const char consonants[] = "bdfgklmnprstvz", vowels[] = "aeiou";
    int n = 0, syllables = 2 + (int)tt_rng_below(2, 1, i, 3);
    for (int s = 0; s < syllables; s++) {
        uint64_t at = i * 8 + 2 * (uint64_t)s;
        out[n++] = consonants[tt_rng_below(2, 2, at, sizeof consonants - 1)];
        out[n++] = vowels[tt_rng_below(2, 2, at + 1, sizeof vowels - 1)];
    }
    out[n] = 0;
}

static lexicon *make_lexicon(tt_error *err) {
    lexicon *words = malloc(sizeof *words);
    if (!words) (void)tt_fail(err, TT_ERR_MEMORY, "no memory for %d words", N_WORDS);
    for (uint64_t i = 0; words && i < N_WORDS; i++) make_word(i, words->word[i]);
    return words;
}

tt_status tt_bench_make_text(size_t n, char **out, tt_error *err) {
    lexicon *words = make_lexicon(err);
    *out = words ? malloc(n + LONGEST) : NULL;
    if (!*out) {
        free(words);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu bytes of text", n);
    }
    size_t done = 0;
    for (uint64_t i = 0; done < n; i++) {
        /* squared twice: a quarter of the words make up most of the text */
        double u = tt_rng_uniform(3, 1, i);
        const char *word = words->word[(size_t)(u * u * u * u * N_WORDS)];
        const char *behind = i % LINE_WORDS == LINE_WORDS - 1 ? ".\n" : i % 5 == 4 ? ", " : " ";
        done += (size_t)snprintf(*out + done, LONGEST, "%s%s", word, behind);
    }
    (*out)[n - 1] = '\n';
    free(words);
    return TT_OK;
}

/* --- tokenizer.json ----------------------------------------------------------------------------
 */

static int compare_words(const void *a, const void *b) {
    return strcmp(a, b);
}

/* A byte's character in the byte-level alphabet (GPT-2), as a JSON escape. */
static void print_byte(int byte, FILE *stream) {
    bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    int code = printable ? byte : byte <= 0x20 ? 0x100 + byte : 0x121 + byte - 0x7F;
    fprintf(stream, "\\u%04x", byte == 0xAD ? 0x143 : code);
}

/* " w", " wo", " wor", ...: letters are added one by one to the space in front. Prefixes that the
 * word before (words are sorted) has too are there already. */
static void print_prefixes(const lexicon *words, bool as_merges, FILE *stream) {
    int id = 256;
    for (int i = 0; i < N_WORDS; i++) {
        const char *word = words->word[i], *before = i ? words->word[i - 1] : "";
        size_t same = 0;
        while (word[same] && word[same] == before[same]) same++;
        for (size_t n = same + 1; n <= strlen(word); n++, id++) {
            if (as_merges)
                fprintf(stream, "%s\"\\u0120%.*s %c\"", id == 256 ? "" : ",", (int)n - 1, word,
                        word[n - 1]);
            else
                fprintf(stream, ",\"\\u0120%.*s\":%d", (int)n, word, id);
        }
    }
}

static void print_tokenizer(const lexicon *words, FILE *stream) {
    fputs("{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],"
          "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
          "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
          "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+"
          "[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\","
          "\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
          "\"trim_offsets\":true,\"use_regex\":false}]},\"post_processor\":null,"
          "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
          "\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
          "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,"
          "\"byte_fallback\":false,\"ignore_merges\":false,\"vocab\":{",
          stream);
    for (int byte = 0; byte < 256; byte++) {
        fputs(byte ? ",\"" : "\"", stream);
        print_byte(byte, stream);
        fprintf(stream, "\":%d", byte);
    }
    print_prefixes(words, false, stream);
    fputs("},\"merges\":[", stream);
    print_prefixes(words, true, stream);
    fputs("]}}\n", stream);
}

tt_status tt_bench_make_tokenizer(const char *path, tt_error *err) {
    char *text = NULL;
    size_t n = 0;
    lexicon *words = make_lexicon(err);
    if (!words) return TT_ERR_MEMORY;
    qsort(words->word, N_WORDS, WORD_BYTES, compare_words);
    FILE *stream = open_memstream(&text, &n);
    if (stream) print_tokenizer(words, stream);
    free(words);
    tt_status status = TT_OK;
    if (!stream || fclose(stream) != 0)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for a tokenizer");
    if (status == TT_OK) status = tt_file_write_atomic(path, text, n, err);
    free(text);
    return status;
}
