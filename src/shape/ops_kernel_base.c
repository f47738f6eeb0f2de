/* What every machine of the architecture has. */
#define KERNEL tt_ops_kernel_base
#include "ops_kernel.h"
