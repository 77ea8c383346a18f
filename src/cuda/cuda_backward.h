/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A backward pass under way, between cuda_backward.c and the products in cuda_gradients.c.
 */
#ifndef FBNI_CUDA_BACKWARD_H
#define FBNI_CUDA_BACKWARD_H

#include "cuda_hopper.h"

typedef struct fbni_cuda_backward_job {
    fbni_cuda_layer *layer;
    fbni_cuda_context *context;
    const fbn_params *params;
    const fbn_backward_args *args;
    const fbn_grads *grads;
    int64_t N, I, O;
    bool accumulate, accumulate_dx;
    const double *norm;
    void *centre;
    fbni_cuda_gradient gradient;
    fbni_cuda_feature_gradients features;
    fbni_cuda_input_gradient input;
    void *partials;
    float *inputs, *weights;
    bool du_there; /* as the products take it */
    char *du;      /* Hopper: du's parts */
    float *slices; /* fbni_hopper_slices_size */
    void *control;
} fbni_cuda_backward_job;

/* Whether du is wanted as cuBLAS takes it, and how: reals, or rounded to the data's type. */
bool fbni_cuda_wants_plain_du(const fbni_cuda_backward_job *job, bool *rounds);
/* du, unless it is there, and from it dx and dW, by the layer's row of FBNI_CUDA_GRADIENTS. */
fbn_status fbni_cuda_gradients(fbni_cuda_backward_job *job);

#endif
