/* peft: the adapter_config.json of a Hugging Face PEFT directory, for LoRA.
 *
 * Written with keys only that PEFT 0.11 knows: it hands every key to a constructor, and fails on
 * one that came later. Read with all that PEFT 0.21 writes: a key is either used, or must have the
 * value at which it changes nothing; any other setting, and any key that is not known to be
 * harmless, is refused by name, never ignored.
 *
 * Tensors lie beside it in adapter_model.safetensors or adapter_model.bin, named
 * "base_model.model." + the module's path + ".lora_A.weight" [r x in], ".lora_B.weight" [out x r],
 * ".lora_magnitude_vector" [out] (DoRA).
 *
 * Sources: peft 0.21.2 tuners/lora/config.py, peft 0.11.1 config.py, utils/save_and_load.py. */
#ifndef TRIMTAB_PEFT_H
#define TRIMTAB_PEFT_H

#include <stdbool.h>
#include <stddef.h>

#include "trimtab/status.h"

#define TT_PEFT_CONFIG_FILE "adapter_config.json"
#define TT_PEFT_TENSOR_FILE "adapter_model.safetensors"
#define TT_PEFT_TORCH_FILE  "adapter_model.bin"
#define TT_PEFT_PREFIX      "base_model.model."

enum { TT_PEFT_MODULE_BYTES = 128, TT_PEFT_MAX_MODULES = 64, TT_PEFT_MAX_LAYERS = 4096 };

typedef struct tt_peft_config {
    int rank;
    double alpha; /* B A counts alpha / rank, or alpha / sqrt(rank) when rslora */
    bool rslora, dora;
    double dropout;
    const char *base_model; /* writing: name or path of the model, borrowed; reading: not set */
    /* Modules by the end of their path ("q_proj"). Reading: 0 when the file has a pattern. */
    char targets[TT_PEFT_MAX_MODULES][TT_PEFT_MODULE_BYTES];
    int n_targets;
    const char *pattern; /* writing: target_modules instead, borrowed; NULL: the list. It tells the
                            layers too: n_layers is -1 then, as PEFT wants it */
    /* layers_to_transform; -1: the file does not say (all). */
    int layers[TT_PEFT_MAX_LAYERS], n_layers;
} tt_peft_config;

/* Errors: ERR_MISSING, ERR_FORMAT (path: key: found, expected), ERR_IO, ERR_MEMORY. */
tt_status tt_peft_read(const char *path, tt_peft_config *out, tt_error *err) TT_MUST_CHECK;

/* Writes path atomically. Errors: ERR_IO, ERR_MEMORY. */
tt_status tt_peft_write(const char *path, const tt_peft_config *config,
                        tt_error *err) TT_MUST_CHECK;

/* Does the module at path ("model.layers.0.self_attn.q_proj") belong to target i, as PEFT decides:
 * the path is the target or ends in "." + target? */
bool tt_peft_matches(const tt_peft_config *config, int i, const char *module);

#endif
