/* tokenizer_onig: Oniguruma expressions (Ruby syntax, UTF-8) said in PCRE2's language.
 *
 * What differs and is translated: \s \d \w \h and \p{..} (other or older Unicode tables), \v, \u,
 * {,n}, (?m) (PCRE2's (?s)), ^ and $ (always at lines: the caller compiles with MULTILINE).
 * What differs and is refused: nested and intersected classes, POSIX brackets, {n,m}+ and {n}?
 * (not possessive, not lazy in Ruby), options in mid-group, back references, \b \B \G \K \R \X,
 * negated sets inside a class, case-insensitive text that folds to several characters (ss, st, ff,
 * fi, fl). Source: Oniguruma, doc/RE; pcre2pattern(3). */
#ifndef TRIMTAB_TOKENIZER_ONIG_H
#define TRIMTAB_TOKENIZER_ONIG_H

#include "tokenizer_private.h"

/* Appends the translation of source[0..n) to out. Errors: ERR_FORMAT (construct and byte). */
tt_status tt_tok_onig_translate(const char *source, size_t n, tt_text *out,
                                tt_error *err) TT_MUST_CHECK;

#endif
