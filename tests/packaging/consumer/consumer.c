/* A program of somebody who uses the library: a product (BLAS), a singular value decomposition
 * (LAPACK), a tokenizer's regular expressions linked in with the rest, all under MPI. */
#include <math.h>
#include <mpi.h>
#include <stdio.h>

#include "trimtab/gemm.h"
#include "trimtab/provenance.h"
#include "trimtab/svd.h"
#include "trimtab/tokenizer.h"
#include "trimtab/world.h"

int main(int argc, char **argv) {
    static tt_error err;
    tt_world *world;
    tt_tokenizer *tokenizer;
    MPI_Init(&argc, &argv);
    if (tt_world_create(MPI_COMM_WORLD, &world, &err) != TT_OK) return 1;
    float a[4] = {1, 2, 3, 4}, b[4] = {5, 6, 7, 8}, c[4];
    tt_gemm_f32(1, false, false, 2, 2, 2, 1, a, 2, b, 2, 0, c, 2);
    if (c[0] != 19 || c[1] != 22 || c[2] != 43 || c[3] != 50) return 2;
    tt_gemm *gemm;
    tt_svd *svd;
    tt_matrix w = {.data = b, .dtype = TT_DTYPE_F32, .rows = 2, .cols = 2};
    if (tt_gemm_create(1, &gemm, &err) != TT_OK) return 4;
    if (tt_svd_create(gemm, &w, 2, &svd, &err) != TT_OK) return 5;
    if (fabs(svd->sigma[0] * svd->sigma[1] - 2) > 1e-3) return 6; /* |det| */
    tt_svd_destroy(svd);
    tt_gemm_destroy(gemm);
    if (tt_tokenizer_open("nowhere", &tokenizer, &err) == TT_OK) return 3;
    if (world->rank == 0)
        printf("trimtab %s with %s: %s\n", tt_provenance_version(), tt_gemm_version(), err.text);
    tt_world_destroy(world);
    MPI_Finalize();
    return 0;
}
