/* What the parts of weights share. */
#ifndef TRIMTAB_WEIGHTS_PRIVATE_H
#define TRIMTAB_WEIGHTS_PRIVATE_H

#include "trimtab/weights.h"

/* Where a per-layer role lies: a matrix, or else a vector; NULL for the other kind. */
tt_matrix *tt_weights_layer_matrix(tt_layer_weights *layer, tt_role role);
const float **tt_weights_layer_vector(tt_layer_weights *layer, tt_role role);

/* Where a tensor of the model lies in the files. */
typedef struct tt_weights_found {
    const tt_tensor *tensor;  /* that holds it, alone or among others */
    const tt_tensor *factors; /* of an F8_E4M3 matrix, else NULL */
    int first_row, n_rows;    /* its own of the tensor's; a vector's elements */
    size_t n_bytes;           /* of its own rows; of the factors too, counted with the first row */
    int interleaved;          /* see tt_matrix */
    float offset;             /* in a vector's elements, to be taken off */
} tt_weights_found;

/* The files of a model; a GGUF file is compared with the spec. Closed by tt_tensors_close. */
tt_status tt_weights_open_files(const tt_spec *spec, const char *model_dir, tt_tensors **out,
                                tt_error *err) TT_MUST_CHECK;

/* A tensor that is looked at, or left aside, on purpose: not an unexpected one. */
bool tt_weights_is_known(const tt_tensors *files, const tt_spec *spec, const char *name);

/* Finds a tensor and checks its shape and type, and those of its factors. */
tt_status tt_weights_find_role(const tt_tensors *files, const char *model_dir, const tt_spec *spec,
                               tt_role role, int layer, tt_weights_found *out,
                               tt_error *err) TT_MUST_CHECK;
tt_status tt_weights_find_expert(const tt_tensors *files, const char *model_dir,
                                 const tt_spec *spec, tt_role role, int layer, int expert,
                                 tt_weights_found *out, tt_error *err) TT_MUST_CHECK;

/* What was found as the network reads it: a view, whose factors are copied into weights; or fp32
 * numbers appended to those of weights. */
tt_status tt_weights_take_matrix(tt_weights *weights, const tt_spec *spec,
                                 const tt_weights_found *found, tt_matrix *out,
                                 tt_error *err) TT_MUST_CHECK;
tt_status tt_weights_take_vector(tt_weights *weights, const tt_weights_found *found,
                                 const float **out, tt_dtype *stored, tt_error *err) TT_MUST_CHECK;

/* fp32 floats of one layer's norms and biases. */
size_t tt_weights_layer_floats(const tt_spec *spec);

/* A share with room for its vectors and nothing in it. */
tt_status tt_weights_allocate(const tt_spec *spec, int first_layer, int n_layers, bool has_head,
                              tt_weights **out, tt_error *err) TT_MUST_CHECK;

/* The entry of a vector in weights->stored. */
tt_dtype *tt_weights_stored(tt_weights *weights, tt_role role, int layer);

#endif
