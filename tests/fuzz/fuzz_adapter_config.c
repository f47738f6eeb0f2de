/* The first byte chooses: an adapter_config.json of PEFT, which is written and read back if it is
 * accepted; or the config.json of pyreft. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/peft.h"
#include "trimtab/pyreft.h"

static void check_round_trip(const tt_peft_config *config) {
    static tt_peft_config again;
    tt_peft_config copy = *config;
    copy.base_model = "base";
    if (copy.n_targets == 0) return; /* a pattern: nothing that could be written */
    char path[512];
    snprintf(path, sizeof path, "%s/again.json", fuzz_dir());
    FUZZ_CHECK(tt_peft_write(path, &copy, NULL) == TT_OK);
    FUZZ_CHECK(tt_peft_read(path, &again, NULL) == TT_OK);
    FUZZ_CHECK(again.rank == config->rank && again.n_targets == config->n_targets &&
               again.rslora == config->rslora && again.dora == config->dora);
    for (int i = 0; i < config->n_targets; i++)
        FUZZ_CHECK(strcmp(again.targets[i], config->targets[i]) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static tt_peft_config config;
    if (n == 0) return 0;
    const char *path = fuzz_file("config.json", data + 1, n - 1);
    tt_error err = {0};
    if (data[0] % 2) {
        fuzz_check_status(tt_pyreft_check(path, data[0] / 2, &err), &err, NULL);
        return 0;
    }
    tt_status status = tt_peft_read(path, &config, &err);
    fuzz_check_status(status, &err, NULL);
    if (status != TT_OK) return 0;
    for (int i = 0; i < config.n_targets; i++)
        (void)tt_peft_matches(&config, i, "model.layers.0.self_attn.q_proj");
    check_round_trip(&config);
    return 0;
}
