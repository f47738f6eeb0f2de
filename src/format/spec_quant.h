/* spec_quant: quantization_config of config.json (private to src/format). */
#ifndef TRIMTAB_FORMAT_SPEC_QUANT_H
#define TRIMTAB_FORMAT_SPEC_QUANT_H

#include <jansson.h>

#include "trimtab/spec.h"

/* Reads config's "quantization_config" (missing or null: nothing is quantised) into *out.
 *
 * Taken: quant_method "fp8" (e4m3; weight_block_size of powers of two, the second 64 at least, or
 * null: a factor for each tensor or row), and "compressed-tensors" of format "float-quantized" with
 * weights of 8 bits, type float, symmetric, not dynamic, strategy tensor, channel or block. How
 * activations would be quantised is read over: nothing is rounded here, products are fp32. Lists of
 * modules left alone are read over too: the type of a tensor in the files says what it is. Every
 * other method, key or value is ERR_FORMAT by name. path: of the file, for messages. */
tt_status tt_spec_read_quantisation(const char *path, const json_t *config, tt_quantisation *out,
                                    tt_error *err) TT_MUST_CHECK;

#endif
