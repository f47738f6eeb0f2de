#include <stdio.h>
#include <string.h>
#include <unicode/uchar.h>

#include "tokenizer_private.h"

typedef struct range {
    uint32_t first, last;
    char category[3];
} range;

/* Characters newer than Unicode 14 as Oniguruma 6.9.10 (Unicode 16) sees them, with their general
 * category; PCRE2 and ICU of a stable distribution may be older. Read off tokenizers 0.23.3. */
static const range newer[] = {
    {0x897, 0x897, "Mn"},     {0xCF3, 0xCF3, "Mc"},     {0xECE, 0xECE, "Mn"},
    {0x1B4E, 0x1B4F, "Po"},   {0x1B7F, 0x1B7F, "Po"},   {0x1C89, 0x1C89, "Lu"},
    {0x1C8A, 0x1C8A, "Ll"},   {0x2427, 0x2429, "So"},   {0x2FFC, 0x2FFF, "So"},
    {0x31E4, 0x31E5, "So"},   {0x31EF, 0x31EF, "So"},   {0xA7CB, 0xA7CC, "Lu"},
    {0xA7CD, 0xA7CD, "Ll"},   {0xA7DA, 0xA7DA, "Lu"},   {0xA7DB, 0xA7DB, "Ll"},
    {0xA7DC, 0xA7DC, "Lu"},   {0x105C0, 0x105F3, "Lo"}, {0x10D40, 0x10D49, "Nd"},
    {0x10D4A, 0x10D4D, "Lo"}, {0x10D4E, 0x10D4E, "Lm"}, {0x10D4F, 0x10D4F, "Lo"},
    {0x10D50, 0x10D65, "Lu"}, {0x10D69, 0x10D6D, "Mn"}, {0x10D6E, 0x10D6E, "Pd"},
    {0x10D6F, 0x10D6F, "Lm"}, {0x10D70, 0x10D85, "Ll"}, {0x10D8E, 0x10D8F, "Sm"},
    {0x10EC2, 0x10EC4, "Lo"}, {0x10EFC, 0x10EFF, "Mn"}, {0x1123F, 0x11240, "Lo"},
    {0x11241, 0x11241, "Mn"}, {0x11380, 0x11389, "Lo"}, {0x1138B, 0x1138B, "Lo"},
    {0x1138E, 0x1138E, "Lo"}, {0x11390, 0x113B5, "Lo"}, {0x113B7, 0x113B7, "Lo"},
    {0x113B8, 0x113BA, "Mc"}, {0x113BB, 0x113C0, "Mn"}, {0x113C2, 0x113C2, "Mc"},
    {0x113C5, 0x113C5, "Mc"}, {0x113C7, 0x113CA, "Mc"}, {0x113CC, 0x113CD, "Mc"},
    {0x113CE, 0x113CE, "Mn"}, {0x113CF, 0x113CF, "Mc"}, {0x113D0, 0x113D0, "Mn"},
    {0x113D1, 0x113D1, "Lo"}, {0x113D2, 0x113D2, "Mn"}, {0x113D3, 0x113D3, "Lo"},
    {0x113D4, 0x113D5, "Po"}, {0x113D7, 0x113D8, "Po"}, {0x113E1, 0x113E2, "Mn"},
    {0x116D0, 0x116E3, "Nd"}, {0x11B00, 0x11B09, "Po"}, {0x11BC0, 0x11BE0, "Lo"},
    {0x11BE1, 0x11BE1, "Po"}, {0x11BF0, 0x11BF9, "Nd"}, {0x11F00, 0x11F01, "Mn"},
    {0x11F02, 0x11F02, "Lo"}, {0x11F03, 0x11F03, "Mc"}, {0x11F04, 0x11F10, "Lo"},
    {0x11F12, 0x11F33, "Lo"}, {0x11F34, 0x11F35, "Mc"}, {0x11F36, 0x11F3A, "Mn"},
    {0x11F3E, 0x11F3F, "Mc"}, {0x11F40, 0x11F40, "Mn"}, {0x11F41, 0x11F41, "Mc"},
    {0x11F42, 0x11F42, "Mn"}, {0x11F43, 0x11F4F, "Po"}, {0x11F50, 0x11F59, "Nd"},
    {0x11F5A, 0x11F5A, "Mn"}, {0x1342F, 0x1342F, "Lo"}, {0x13439, 0x1343F, "Cf"},
    {0x13440, 0x13440, "Mn"}, {0x13441, 0x13446, "Lo"}, {0x13447, 0x13455, "Mn"},
    {0x13460, 0x143FA, "Lo"}, {0x16100, 0x1611D, "Lo"}, {0x1611E, 0x16129, "Mn"},
    {0x1612A, 0x1612C, "Mc"}, {0x1612D, 0x1612F, "Mn"}, {0x16130, 0x16139, "Nd"},
    {0x16D40, 0x16D42, "Lm"}, {0x16D43, 0x16D6A, "Lo"}, {0x16D6B, 0x16D6C, "Lm"},
    {0x16D6D, 0x16D6F, "Po"}, {0x16D70, 0x16D79, "Nd"}, {0x18CFF, 0x18CFF, "Lo"},
    {0x1B132, 0x1B132, "Lo"}, {0x1B155, 0x1B155, "Lo"}, {0x1CC00, 0x1CCEF, "So"},
    {0x1CCF0, 0x1CCF9, "Nd"}, {0x1CD00, 0x1CEB3, "So"}, {0x1D2C0, 0x1D2D3, "No"},
    {0x1DF25, 0x1DF2A, "Ll"}, {0x1E030, 0x1E06D, "Lm"}, {0x1E08F, 0x1E08F, "Mn"},
    {0x1E4D0, 0x1E4EA, "Lo"}, {0x1E4EB, 0x1E4EB, "Lm"}, {0x1E4EC, 0x1E4EF, "Mn"},
    {0x1E4F0, 0x1E4F9, "Nd"}, {0x1E5D0, 0x1E5ED, "Lo"}, {0x1E5EE, 0x1E5EF, "Mn"},
    {0x1E5F0, 0x1E5F0, "Lo"}, {0x1E5F1, 0x1E5FA, "Nd"}, {0x1E5FF, 0x1E5FF, "Po"},
    {0x1F6DC, 0x1F6DC, "So"}, {0x1F774, 0x1F776, "So"}, {0x1F77B, 0x1F77F, "So"},
    {0x1F7D9, 0x1F7D9, "So"}, {0x1F8B2, 0x1F8BB, "So"}, {0x1F8C0, 0x1F8C1, "So"},
    {0x1FA75, 0x1FA77, "So"}, {0x1FA87, 0x1FA89, "So"}, {0x1FA8F, 0x1FA8F, "So"},
    {0x1FAAD, 0x1FAAF, "So"}, {0x1FABB, 0x1FABF, "So"}, {0x1FAC6, 0x1FAC6, "So"},
    {0x1FACE, 0x1FACF, "So"}, {0x1FADA, 0x1FADC, "So"}, {0x1FADF, 0x1FADF, "So"},
    {0x1FAE8, 0x1FAE9, "So"}, {0x1FAF7, 0x1FAF8, "So"}, {0x1FBCB, 0x1FBEF, "So"},
    {0x2B739, 0x2B739, "Lo"}, {0x2EBF0, 0x2EE5D, "Lo"}, {0x31350, 0x323AF, "Lo"},
};
enum { N_NEWER = sizeof newer / sizeof newer[0] };

/* Numbers of Unicode 17: Rust knows them, Oniguruma does not yet. */
static const range newest_numbers[] = {{0x11DE0, 0x11DE9, "Nd"}, {0x16FF4, 0x16FF6, "Nl"}};

/* Lower case of letters newer than Unicode 14: first, last, distance. */
static const struct {
    uint32_t first, last;
    int32_t shift;
} newer_lower[] = {
    {0x1C89, 0x1C89, 1},      {0xA7CB, 0xA7CB, 0x264 - 0xA7CB},
    {0xA7CC, 0xA7CC, 1},      {0xA7CE, 0xA7CE, 1},
    {0xA7D2, 0xA7D2, 1},      {0xA7D4, 0xA7D4, 1},
    {0xA7DA, 0xA7DA, 1},      {0xA7DC, 0xA7DC, 0x19B - 0xA7DC},
    {0x10D50, 0x10D65, 0x20}, {0x16EA0, 0x16EB8, 0x1B},
};

static const char *newer_category(uint32_t code) {
    size_t low = 0, high = N_NEWER;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (code > newer[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < N_NEWER && code >= newer[low].first ? newer[low].category : NULL;
}

/* Bit set of ICU categories -> is code in one of them, by Unicode 16? `major` is its letter. */
static bool in_category(uint32_t code, uint32_t mask, char major) {
    const char *category = newer_category(code);
    if (category) return category[0] == major;
    return (U_GET_GC_MASK((UChar32)code) & mask) != 0;
}

static bool older_than(uint32_t code, int major) {
    UVersionInfo age;
    u_charAge((UChar32)code, age);
    return age[0] > 0 && (age[0] < major || (age[0] == major && age[1] == 0));
}

bool tt_tok_is_space(uint32_t code) {
    if (code < 0x80) return code == ' ' || (code >= 9 && code <= 13);
    return u_hasBinaryProperty((UChar32)code, UCHAR_WHITE_SPACE);
}

bool tt_tok_is_numeric(uint32_t code) {
    if (code < 0x80) return code >= '0' && code <= '9';
    for (size_t i = 0; i < sizeof newest_numbers / sizeof newest_numbers[0]; i++)
        if (code >= newest_numbers[i].first && code <= newest_numbers[i].last) return true;
    return in_category(code, U_GC_N_MASK, 'N');
}

bool tt_tok_is_punctuation(uint32_t code) {
    if (code < 0x80) return code > ' ' && code < 0x7F && !u_isalnum((UChar32)code);
    if (code == 0x166D || code == 0x111C9) return true; /* since reclassified */
    return (U_GET_GC_MASK((UChar32)code) & U_GC_P_MASK) && older_than(code, 8);
}

bool tt_tok_is_mark(uint32_t code) {
    if (code < 0x300) return false;
    if (code == 0x1CF2 || code == 0x1CF3) return true; /* since reclassified */
    return code != 0x111C9 && (U_GET_GC_MASK((UChar32)code) & U_GC_M_MASK) && older_than(code, 9);
}

bool tt_tok_is_word(uint32_t code) {
    if (code < 0x80) return u_isalnum((UChar32)code) || code == '_';
    if (code == 0x200C || code == 0x200D) return true; /* Join_Control */
    const char *category = newer_category(code);
    if (category)
        return strchr("LM", category[0]) || !strcmp(category, "Nd") || !strcmp(category, "Nl") ||
               !strcmp(category, "Pc");
    return u_hasBinaryProperty((UChar32)code, UCHAR_ALPHABETIC) ||
           (U_GET_GC_MASK((UChar32)code) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK));
}

uint32_t tt_tok_lower(uint32_t code) {
    if (code < 0x80) return code >= 'A' && code <= 'Z' ? code + 32 : code;
    for (size_t i = 0; i < sizeof newer_lower / sizeof newer_lower[0]; i++)
        if (code >= newer_lower[i].first && code <= newer_lower[i].last)
            return (uint32_t)((int32_t)code + newer_lower[i].shift);
    return (uint32_t)u_tolower((UChar32)code);
}

/* Scripts, with their characters newer than Unicode 14 as items of a PCRE2 class. */
static const struct {
    const char *name, *newer;
} scripts[] = {
    {"Arabic", "\\x{897}\\x{10EC2}-\\x{10EC4}\\x{10EFC}-\\x{10EFF}"},
    {"Bopomofo", ""},
    {"Cyrillic", "\\x{1C89}\\x{1C8A}\\x{1E030}-\\x{1E06D}\\x{1E08F}"},
    {"Devanagari", "\\x{11B00}-\\x{11B09}"},
    {"Greek", ""},
    {"Han", "\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"},
    {"Hangul", ""},
    {"Hebrew", ""},
    {"Hiragana", "\\x{1B132}"},
    {"Katakana", "\\x{1B155}"},
    {"Latin", "\\x{A7CB}-\\x{A7CD}\\x{A7DA}-\\x{A7DC}\\x{1DF25}-\\x{1DF2A}"},
    {"Thai", ""},
};

const char *tt_tok_new_in_script(const char *name) {
    for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++)
        if (!strcmp(scripts[i].name, name)) return scripts[i].newer;
    return NULL;
}

tt_status tt_tok_append_new_ranges(tt_text *out, const char *name, tt_error *err) {
    size_t n = strlen(name);
    for (size_t i = 0; i < N_NEWER; i++) {
        if (strncmp(newer[i].category, name, n)) continue;
        char item[40];
        int length = snprintf(item, sizeof item, "\\x{%X}-\\x{%X}", newer[i].first, newer[i].last);
        TT_TRY(tt_text_append(out, item, (size_t)length, err));
    }
    return TT_OK;
}
