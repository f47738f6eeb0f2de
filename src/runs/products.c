#include "trimtab/products.h"

#include "bench_private.h"
#include "trimtab/gemm.h"

double tt_products_gain(void) {
    enum { TURNS = 5 };
    double fp32 = 0, bf16 = 0;
    if (!tt_gemm_has_bf16()) return 0;
    for (int turn = 0; turn < TURNS; turn++) {
        tt_bench_peak_turn(1, &fp32);
        tt_bench_bf16_turn(1, &bf16);
    }
    return fp32 > 0 ? bf16 / fp32 : 0;
}

static tt_status check_cpu(const tt_world *world, tt_error *err) {
    if (tt_gemm_has_bf16()) return TT_OK;
    return tt_fail(err, TT_ERR_CONFIG,
                   "compute.products: \"bf16\", but the CPU of rank %d (%s) has no AVX-512 BF16 "
                   "(found kernels \"%s\"), expected \"fp32\" or \"auto\" there",
                   world->rank, world->host, tt_gemm_own_kernel_name());
}

tt_status tt_products_resolve(const tt_world *world, tt_job *job, tt_error *err) {
    tt_products *products = &job->compute.products;
    if (*products == TT_PRODUCTS_BF16) return tt_world_agree(world, check_cpu(world, err), err);
    if (*products == TT_PRODUCTS_FP32) return TT_OK;
    bool slow = tt_world_any(world, tt_products_gain() < TT_PRODUCTS_MIN_GAIN);
    *products = slow ? TT_PRODUCTS_FP32 : TT_PRODUCTS_BF16;
    return TT_OK;
}
