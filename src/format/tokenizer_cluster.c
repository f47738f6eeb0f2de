#include <unicode/uchar.h>

#include "tokenizer_private.h"

/* Extended grapheme clusters of Unicode 17 (UAX 29), as HF's segmentation finds them. ICU gives the
 * properties; what a stable distribution's is too old for stands in the tables. Flags (pairs of
 * regional indicators) are not joined: the only caller asks for clusters below six bytes. */

typedef struct range {
    uint32_t first, last;
} range;

/* Marks that attach to what stands before, newer than Unicode 15. */
static const range newer_marks[] = {
    {0x897, 0x897},     {0x1ACF, 0x1ADD},   {0x1AE0, 0x1AEB},   {0x10D69, 0x10D6D},
    {0x10EFA, 0x10EFC}, {0x113B8, 0x113C0}, {0x113C2, 0x113C2}, {0x113C5, 0x113C5},
    {0x113C7, 0x113CA}, {0x113CC, 0x113D0}, {0x113D2, 0x113D2}, {0x113E1, 0x113E2},
    {0x11B60, 0x11B67}, {0x11F5A, 0x11F5A}, {0x1611E, 0x1612F}, {0x1E5EE, 0x1E5EF},
    {0x1E6E3, 0x1E6E3}, {0x1E6E6, 0x1E6E6}, {0x1E6EE, 0x1E6EF}, {0x1E6F5, 0x1E6F5},
};

/* Consonants of the scripts whose viramas join them (Indic_Conjunct_Break=Consonant). */
static const range consonants[] = {
    {0x915, 0x939},     {0x958, 0x95F},     {0x978, 0x97F},     {0x995, 0x9A8},
    {0x9AA, 0x9B0},     {0x9B2, 0x9B2},     {0x9B6, 0x9B9},     {0x9DC, 0x9DD},
    {0x9DF, 0x9DF},     {0x9F0, 0x9F1},     {0xA95, 0xAA8},     {0xAAA, 0xAB0},
    {0xAB2, 0xAB3},     {0xAB5, 0xAB9},     {0xAF9, 0xAF9},     {0xB15, 0xB28},
    {0xB2A, 0xB30},     {0xB32, 0xB33},     {0xB35, 0xB39},     {0xB5C, 0xB5D},
    {0xB5F, 0xB5F},     {0xB71, 0xB71},     {0xC15, 0xC28},     {0xC2A, 0xC39},
    {0xC58, 0xC5A},     {0xD15, 0xD3A},     {0x1000, 0x102A},   {0x103F, 0x103F},
    {0x1050, 0x1055},   {0x105A, 0x105D},   {0x1061, 0x1061},   {0x1065, 0x1066},
    {0x106E, 0x1070},   {0x1075, 0x1081},   {0x108E, 0x108E},   {0x1780, 0x17B3},
    {0x1A20, 0x1A54},   {0x1B0B, 0x1B0C},   {0x1B13, 0x1B33},   {0x1B45, 0x1B4C},
    {0x1B83, 0x1BA0},   {0x1BAE, 0x1BAF},   {0x1BBB, 0x1BBD},   {0xA989, 0xA98B},
    {0xA98F, 0xA9B2},   {0xA9E0, 0xA9E4},   {0xA9E7, 0xA9EF},   {0xA9FA, 0xA9FE},
    {0xAA60, 0xAA6F},   {0xAA71, 0xAA73},   {0xAA7A, 0xAA7A},   {0xAA7E, 0xAA7F},
    {0xAAE0, 0xAAEA},   {0xABC0, 0xABDA},   {0x10A00, 0x10A00}, {0x10A10, 0x10A13},
    {0x10A15, 0x10A17}, {0x10A19, 0x10A35}, {0x11103, 0x11126}, {0x11144, 0x11144},
    {0x11147, 0x11147}, {0x11380, 0x11389}, {0x1138B, 0x1138B}, {0x1138E, 0x1138E},
    {0x11390, 0x113B5}, {0x11900, 0x11906}, {0x11909, 0x11909}, {0x1190C, 0x11913},
    {0x11915, 0x11916}, {0x11918, 0x1192F}, {0x11A00, 0x11A00}, {0x11A0B, 0x11A32},
    {0x11A50, 0x11A50}, {0x11A5C, 0x11A83}, {0x11F04, 0x11F10}, {0x11F12, 0x11F33},
};

static const uint32_t viramas[] = {
    0x94D,  0x9CD,  0xACD,  0xB4D,   0xC4D,   0xD4D,   0x1039,  0x17D2,  0x1A60,  0x1B44,
    0x1BAB, 0xA9C0, 0xAAF6, 0x10A3F, 0x11133, 0x113D0, 0x1193E, 0x11A47, 0x11A99, 0x11F42,
};

static bool in_ranges(const range *ranges, size_t n, uint32_t code) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (code > ranges[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && code >= ranges[low].first;
}

#define IN(table, code) in_ranges(table, sizeof table / sizeof table[0], code)

static int class_of(uint32_t code) {
    if (code < 0x300 && code != '\r' && code != '\n')
        return code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0xAD ? U_GCB_CONTROL
                                                                            : U_GCB_OTHER;
    if (IN(newer_marks, code)) return U_GCB_EXTEND;
    if (code == 0x113D1) return U_GCB_PREPEND;
    if (code == 0x11A3A) return U_GCB_OTHER; /* no longer Prepend */
    return u_getIntPropertyValue((UChar32)code, UCHAR_GRAPHEME_CLUSTER_BREAK);
}

static bool is_virama(uint32_t code) {
    for (size_t i = 0; i < sizeof viramas / sizeof viramas[0]; i++)
        if (viramas[i] == code) return true;
    return false;
}

/* What the cluster so far has that decides whether it goes on. */
typedef struct cluster {
    int last;         /* class of the last character */
    bool pictograph;  /* a pictograph, then only Extend */
    bool pict_joined; /* the same, then a joiner */
    bool consonant;   /* a consonant, then only Extend, joiners and viramas */
    bool virama;      /* and a virama among them */
} cluster;

static bool is_control(int class) {
    return class == U_GCB_CONTROL || class == U_GCB_CR || class == U_GCB_LF;
}

static bool joins_syllable(int last, int next) {
    if (last == U_GCB_L)
        return next == U_GCB_L || next == U_GCB_V || next == U_GCB_LV || next == U_GCB_LVT;
    if (last == U_GCB_LV || last == U_GCB_V) return next == U_GCB_V || next == U_GCB_T;
    return (last == U_GCB_LVT || last == U_GCB_T) && next == U_GCB_T;
}

static bool goes_on(const cluster *c, uint32_t code, int class) {
    if (c->last == U_GCB_CR) return class == U_GCB_LF;
    if (is_control(c->last) || is_control(class)) return false;
    if (class == U_GCB_EXTEND || class == U_GCB_ZWJ || class == U_GCB_SPACING_MARK) return true;
    if (c->last == U_GCB_PREPEND || joins_syllable(c->last, class)) return true;
    if (c->virama && IN(consonants, code)) return true;
    return c->pict_joined && u_hasBinaryProperty((UChar32)code, UCHAR_EXTENDED_PICTOGRAPHIC);
}

static void take(cluster *c, uint32_t code, int class) {
    bool extends = class == U_GCB_EXTEND;
    bool joins = class == U_GCB_ZWJ || (extends && code != 0x200C);
    c->last = class;
    c->pict_joined = class == U_GCB_ZWJ && c->pictograph;
    c->pictograph =
        (extends && c->pictograph) ||
        (code >= 0xA9 && u_hasBinaryProperty((UChar32)code, UCHAR_EXTENDED_PICTOGRAPHIC));
    c->virama = c->consonant && joins && (c->virama || is_virama(code));
    c->consonant = (c->consonant && joins) || IN(consonants, code);
}

size_t tt_tok_cluster(const char *s, size_t n) {
    cluster c = {.last = U_GCB_OTHER};
    uint32_t code;
    size_t i = (size_t)tt_tok_utf8_next(s, n, &code);
    take(&c, code, class_of(code));
    while (i < n) {
        /* Plain letters, most of all texts, need no properties. */
        if ((unsigned char)s[i] < 0x80 && s[i] >= ' ' && c.last == U_GCB_OTHER) break;
        int length = tt_tok_utf8_next(s + i, n - i, &code);
        int class = class_of(code);
        if (!goes_on(&c, code, class)) break;
        take(&c, code, class);
        i += (size_t)length;
    }
    return i;
}
