/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What bad input gets. ROW(name, entry, status, word, word, what is spoiled): the call must give
 * the status, and fbn_last_error() must contain both words: the argument's name, and the offending
 * value where there is one.
 *
 * The stage (scene.h): N = 6 of at most 8, I = 5, O = 4. `train`, `infer`, `back`, `to` and `with`
 * stand for the forward's arguments in training and inference, the backward's, the gradients and
 * the parameters.
 */
#define train s->t.forward
#define infer s->inferred.forward
#define back s->t.backward
#define to s->t.grads
#define with s->t.params
#define infer_with s->inferred.params
#define BYTE(pointer, count) ((void *)((uintptr_t)(pointer) + (count)))
#define LEAST "-9223372036854775808"
#define LARGEST "9223372036854775807"

#define ROWS_OF_FORWARD                                                                            \
    ROW(train_layer, TRAIN, FBN_ERR_NULL_POINTER, "layer", "", s->layer = NULL)                    \
    ROW(train_params, TRAIN, FBN_ERR_NULL_POINTER, "params", "", s->params = NULL)                 \
    ROW(train_args, TRAIN, FBN_ERR_NULL_POINTER, "args", "", s->forward = NULL)                    \
    ROW(train_x, TRAIN, FBN_ERR_NULL_POINTER, "x", "", train.x = NULL)                             \
    ROW(train_y, TRAIN, FBN_ERR_NULL_POINTER, "y", "", train.y = NULL)                             \
    ROW(args_size_0, TRAIN, FBN_ERR_STRUCT_SIZE, "args", " 0", train.struct_size = 0)              \
    ROW(args_size_16, TRAIN, FBN_ERR_STRUCT_SIZE, "args", "16", train.struct_size = 16)            \
    ROW(args_size_max, TRAIN, FBN_ERR_STRUCT_SIZE, "args", "18446744073709551615",                 \
        train.struct_size = SIZE_MAX)                                                              \
    ROW(params_size_0, TRAIN, FBN_ERR_STRUCT_SIZE, "params", " 0", with.struct_size = 0)           \
    ROW(params_size_max, TRAIN, FBN_ERR_STRUCT_SIZE, "params", "18446744073709551615",             \
        with.struct_size = SIZE_MAX)                                                               \
    ROW(batch_minus_1, TRAIN, FBN_ERR_SIZE, "batch", "-1", train.batch = -1)                       \
    ROW(batch_least, TRAIN, FBN_ERR_SIZE, "batch", LEAST, train.batch = INT64_MIN)                 \
    ROW(batch_9, TRAIN, FBN_ERR_BATCH_TOO_LARGE, "is 9", "8", train.batch = 9)                     \
    ROW(batch_largest, TRAIN, FBN_ERR_BATCH_TOO_LARGE, LARGEST, "8", train.batch = INT64_MAX)      \
    ROW(batch_1, TRAIN, FBN_ERR_BATCH_OF_ONE, "batch", "1", train.batch = 1)                       \
    ROW(ldx_4, TRAIN, FBN_ERR_LEADING_DIMENSION, "ldx is 4", "5", train.ldx = 4)                   \
    ROW(ldx_minus_1, TRAIN, FBN_ERR_LEADING_DIMENSION, "ldx", "-1", train.ldx = -1)                \
    ROW(ldx_least, TRAIN, FBN_ERR_LEADING_DIMENSION, "ldx", LEAST, train.ldx = INT64_MIN)          \
    ROW(ldy_3, TRAIN, FBN_ERR_LEADING_DIMENSION, "ldy is 3", "4", train.ldy = 3)                   \
    ROW(ldw_4, TRAIN, FBN_ERR_LEADING_DIMENSION, "ldw is 4", "5", with.ldw = 4)                    \
    ROW(ldx_largest, TRAIN, FBN_ERR_OVERFLOW, "ldx", LARGEST, train.ldx = INT64_MAX)               \
    ROW(ldy_2_61, TRAIN, FBN_ERR_OVERFLOW, "ldy", "2305843009213693952",                           \
        train.ldy = INT64_C(1) << 61)                                                              \
    ROW(ldw_largest, TRAIN, FBN_ERR_OVERFLOW, "ldw", LARGEST, with.ldw = INT64_MAX)                \
    ROW(no_weight, TRAIN, FBN_ERR_MISSING_PARAM, "weight", "", with.weight = NULL)                 \
    ROW(no_pre, TRAIN, FBN_ERR_MISSING_PARAM, "pre_scale", "", with.pre_scale = NULL)              \
    ROW(no_post, TRAIN, FBN_ERR_MISSING_PARAM, "post_scale", "", with.post_scale = NULL)           \
    ROW(no_mean, TRAIN, FBN_ERR_MISSING_PARAM, "running_mean", "", with.running_mean = NULL)       \
    ROW(no_var, TRAIN, FBN_ERR_MISSING_PARAM, "running_var", "", with.running_var = NULL)          \
    ROW(y_is_x, TRAIN, FBN_ERR_OVERLAP, "y", "x", train.y = s->t.a[ARG_X].data)                    \
    ROW(y_ends_in_x, TRAIN, FBN_ERR_OVERLAP, "y", "x",                                             \
        train.y = BYTE(s->t.a[ARG_X].data, -4 * (5 * train.ldy + 3)))                              \
    ROW(y_is_weight, TRAIN, FBN_ERR_OVERLAP, "y", "weight", train.y = s->t.a[ARG_W].data)          \
    ROW(y_is_bias, TRAIN, FBN_ERR_OVERLAP, "y", "bias", train.y = s->t.a[ARG_BIAS].data)           \
    ROW(y_is_gamma, TRAIN, FBN_ERR_OVERLAP, "y", "gamma", train.y = s->t.a[ARG_GAMMA].data)        \
    ROW(y_is_mean, TRAIN, FBN_ERR_OVERLAP, "y", "running_mean",                                    \
        train.y = s->t.a[ARG_RUNNING_MEAN].data)                                                   \
    ROW(saved_is_y, TRAIN, FBN_ERR_OVERLAP, "saved", "y",                                          \
        (train.y = BYTE(train.saved, 4), train.ldy = 0))                                           \
    ROW(means_are_one, TRAIN, FBN_ERR_OVERLAP, "batch_mean", "batch_var",                          \
        train.batch_mean = train.batch_var)                                                        \
    ROW(mean_is_running, TRAIN, FBN_ERR_OVERLAP, "batch_mean", "running_mean",                     \
        train.batch_mean = with.running_mean)                                                      \
    ROW(running_are_one, TRAIN, FBN_ERR_OVERLAP, "running_mean", "running_var",                    \
        with.running_mean = with.running_var)                                                      \
    ROW(running_is_beta, TRAIN, FBN_ERR_OVERLAP, "running_var", "beta",                            \
        with.running_var = s->t.a[ARG_BETA].data)                                                  \
    ROW(x_odd, TRAIN, FBN_ERR_ALIGNMENT, "x", "", train.x = BYTE(train.x, 1))                      \
    ROW(y_odd, TRAIN, FBN_ERR_ALIGNMENT, "y", "", train.y = BYTE(train.y, 1))                      \
    ROW(weight_odd, TRAIN, FBN_ERR_ALIGNMENT, "weight", "", with.weight = BYTE(with.weight, 2))    \
    ROW(bias_odd, TRAIN, FBN_ERR_ALIGNMENT, "bias", "", with.bias = BYTE(with.bias, 1))            \
    ROW(mean_odd, TRAIN, FBN_ERR_ALIGNMENT, "running_mean", "",                                    \
        with.running_mean = BYTE(with.running_mean, 2))                                            \
    ROW(count_odd, TRAIN, FBN_ERR_ALIGNMENT, "num_batches_tracked", "",                            \
        with.num_batches_tracked = BYTE(with.num_batches_tracked, 4))                              \
    ROW(saved_odd, TRAIN, FBN_ERR_ALIGNMENT, "saved", "", train.saved = BYTE(train.saved, 8))      \
    ROW(saved_small, TRAIN, FBN_ERR_SAVED, "saved", "", train.saved_size -= 1)                     \
    ROW(saved_size_0, TRAIN, FBN_ERR_SAVED, "saved", " 0", train.saved_size = 0)                   \
    ROW(infer_layer, INFER, FBN_ERR_NULL_POINTER, "layer", "", s->layer = NULL)                    \
    ROW(infer_mean, INFER, FBN_ERR_MISSING_PARAM, "running_mean", "",                              \
        infer_with.running_mean = NULL)                                                            \
    ROW(infer_var, INFER, FBN_ERR_MISSING_PARAM, "running_var", "", infer_with.running_var = NULL) \
    ROW(infer_batch_mean, INFER, FBN_ERR_INVALID_ARGUMENT, "batch_mean", "",                       \
        infer.batch_mean = s->t.a[ARG_BATCH_MEAN].data)                                            \
    ROW(infer_batch_var, INFER, FBN_ERR_INVALID_ARGUMENT, "batch_var", "",                         \
        infer.batch_var = s->t.a[ARG_BATCH_VAR].data)                                              \
    ROW(infer_batch, INFER, FBN_ERR_SIZE, "batch", "-3", infer.batch = -3)                         \
    ROW(infer_batch_9, INFER, FBN_ERR_BATCH_TOO_LARGE, "is 9", "8", infer.batch = 9)               \
    ROW(infer_y_is_mean, INFER, FBN_ERR_OVERLAP, "y", "running_mean",                              \
        infer.y = infer_with.running_mean)                                                         \
    ROW(infer_y_is_workspace, INFER, FBN_ERR_OVERLAP, "y", "workspace",                            \
        (s->layer = s->inferred.layer, infer.y = s->inferred.workspace.data))                      \
    ROW(infer_y_is_x, INFER, FBN_ERR_OVERLAP, "y", "x", infer.y = s->inferred.a[ARG_X].data)

#define ROWS_OF_BACKWARD                                                                           \
    ROW(back_layer, BACKWARD, FBN_ERR_NULL_POINTER, "layer", "", s->layer = NULL)                  \
    ROW(back_params, BACKWARD, FBN_ERR_NULL_POINTER, "params", "", s->params = NULL)               \
    ROW(back_args, BACKWARD, FBN_ERR_NULL_POINTER, "args", "", s->backward = NULL)                 \
    ROW(back_grads, BACKWARD, FBN_ERR_NULL_POINTER, "grads", "", s->grads = NULL)                  \
    ROW(back_x, BACKWARD, FBN_ERR_NULL_POINTER, "x", "weight", back.x = NULL)                      \
    ROW(back_dy, BACKWARD, FBN_ERR_NULL_POINTER, "dy", "", back.dy = NULL)                         \
    ROW(back_saved, BACKWARD, FBN_ERR_NULL_POINTER, "saved", "", back.saved = NULL)                \
    ROW(back_size, BACKWARD, FBN_ERR_STRUCT_SIZE, "args", " 0", back.struct_size = 0)              \
    ROW(grads_size, BACKWARD, FBN_ERR_STRUCT_SIZE, "grads", " 0", to.struct_size = 0)              \
    ROW(grads_size_max, BACKWARD, FBN_ERR_STRUCT_SIZE, "grads", "18446744073709551615",            \
        to.struct_size = SIZE_MAX)                                                                 \
    ROW(back_flags, BACKWARD, FBN_ERR_ENUM, "flags", "0x80", back.flags = 0x80)                    \
    ROW(back_flags_top, BACKWARD, FBN_ERR_ENUM, "flags", "8000000000000001",                       \
        back.flags = UINT64_C(1) << 63 | 1)                                                        \
    ROW(back_batch, BACKWARD, FBN_ERR_SIZE, "batch", LEAST, back.batch = INT64_MIN)                \
    ROW(back_batch_9, BACKWARD, FBN_ERR_BATCH_TOO_LARGE, "is 9", "8", back.batch = 9)              \
    ROW(back_lddy, BACKWARD, FBN_ERR_LEADING_DIMENSION, "lddy is 3", "4", back.lddy = 3)           \
    ROW(back_ldx, BACKWARD, FBN_ERR_LEADING_DIMENSION, "ldx is 4", "5", back.ldx = 4)              \
    ROW(back_lddx, BACKWARD, FBN_ERR_LEADING_DIMENSION, "lddx is -2", "5", to.lddx = -2)           \
    ROW(back_lddw, BACKWARD, FBN_ERR_LEADING_DIMENSION, "lddw is 4", "5", to.lddw = 4)             \
    ROW(lddw_largest, BACKWARD, FBN_ERR_OVERFLOW, "lddw", LARGEST, to.lddw = INT64_MAX)            \
    ROW(lddy_largest, BACKWARD, FBN_ERR_OVERFLOW, "lddy", LARGEST, back.lddy = INT64_MAX)          \
    ROW(back_saved_small, BACKWARD, FBN_ERR_SAVED, "saved", "", back.saved_size -= 1)              \
    ROW(back_saved_0, BACKWARD, FBN_ERR_SAVED, "saved", " 0", back.saved_size = 0)                 \
    ROW(back_no_weight, BACKWARD, FBN_ERR_MISSING_PARAM, "weight", "", with.weight = NULL)         \
    ROW(back_no_pre, BACKWARD, FBN_ERR_MISSING_PARAM, "pre_scale", "", with.pre_scale = NULL)      \
    ROW(dx_is_x, BACKWARD, FBN_ERR_OVERLAP, "dx", "x", to.dx = s->t.a[ARG_X].data)                 \
    ROW(dx_is_dy, BACKWARD, FBN_ERR_OVERLAP, "dx", "dy", to.dx = s->t.a[ARG_DY].data)              \
    ROW(dw_is_w, BACKWARD, FBN_ERR_OVERLAP, "weight", "weight", to.weight = s->t.a[ARG_W].data)    \
    ROW(dgamma_is_dbeta, BACKWARD, FBN_ERR_OVERLAP, "gamma", "beta", to.gamma = to.beta)           \
    ROW(dbias_is_bias, BACKWARD, FBN_ERR_OVERLAP, "bias", "bias", to.bias = s->t.a[ARG_BIAS].data) \
    ROW(dx_is_saved, BACKWARD, FBN_ERR_OVERLAP, "dx", "saved", to.dx = s->t.a[ARG_SAVED].data)     \
    ROW(dx_odd, BACKWARD, FBN_ERR_ALIGNMENT, "dx", "", to.dx = BYTE(to.dx, 1))                     \
    ROW(dpost_odd, BACKWARD, FBN_ERR_ALIGNMENT, "post_scale", "",                                  \
        to.post_scale = BYTE(to.post_scale, 2))                                                    \
    ROW(back_saved_odd, BACKWARD, FBN_ERR_ALIGNMENT, "saved", "", back.saved = BYTE(back.saved, 16))

#define ROWS_OF_SERVING                                                                            \
    ROW(fold_layer, FOLD, FBN_ERR_NULL_POINTER, "layer", "", s->layer = NULL)                      \
    ROW(fold_params, FOLD, FBN_ERR_NULL_POINTER, "params", "", s->params = NULL)                   \
    ROW(fold_weight, FOLD, FBN_ERR_NULL_POINTER, "weight", "", s->fold_weight = NULL)              \
    ROW(fold_bias, FOLD, FBN_ERR_NULL_POINTER, "bias", "", s->fold_bias = NULL)                    \
    ROW(fold_size, FOLD, FBN_ERR_STRUCT_SIZE, "params", " 0", infer_with.struct_size = 0)          \
    ROW(fold_ldw, FOLD, FBN_ERR_LEADING_DIMENSION, "4", "5", s->fold_ldw = 4)                      \
    ROW(fold_ldw_least, FOLD, FBN_ERR_LEADING_DIMENSION, LEAST, "5", s->fold_ldw = INT64_MIN)      \
    ROW(fold_ldw_largest, FOLD, FBN_ERR_OVERFLOW, LARGEST, "", s->fold_ldw = INT64_MAX)            \
    ROW(fold_no_mean, FOLD, FBN_ERR_MISSING_PARAM, "running_mean", "",                             \
        infer_with.running_mean = NULL)                                                            \
    ROW(fold_in_place, FOLD, FBN_ERR_OVERLAP, "weight", "weight",                                  \
        s->fold_weight = s->inferred.a[ARG_W].data)                                                \
    ROW(fold_bias_is_beta, FOLD, FBN_ERR_OVERLAP, "bias", "beta",                                  \
        s->fold_bias = s->inferred.a[ARG_BETA].data)                                               \
    ROW(fold_into_one, FOLD, FBN_ERR_OVERLAP, "weight", "bias", s->fold_bias = s->fold_weight)     \
    ROW(fold_odd, FOLD, FBN_ERR_ALIGNMENT, "weight", "", s->fold_weight = BYTE(s->fold_weight, 1)) \
    ROW(prepare_out, PREPARE, FBN_ERR_NULL_POINTER, "prepared", "", s->prepared_out = NULL)        \
    ROW(prepare_layer, PREPARE, FBN_ERR_NULL_POINTER, "layer", "", s->layer = NULL)                \
    ROW(prepare_params, PREPARE, FBN_ERR_NULL_POINTER, "params", "", s->params = NULL)             \
    ROW(prepare_ldw, PREPARE, FBN_ERR_LEADING_DIMENSION, "ldw is 2", "5", infer_with.ldw = 2)      \
    ROW(prepare_no_var, PREPARE, FBN_ERR_MISSING_PARAM, "running_var", "",                         \
        infer_with.running_var = NULL)                                                             \
    ROW(prepare_no_weight, PREPARE, FBN_ERR_MISSING_PARAM, "weight", "", infer_with.weight = NULL) \
    ROW(run_prepared, RUN, FBN_ERR_NULL_POINTER, "prepared", "", s->prepared = NULL)               \
    ROW(run_args, RUN, FBN_ERR_NULL_POINTER, "args", "", s->run_args = NULL)                       \
    ROW(run_size, RUN, FBN_ERR_STRUCT_SIZE, "args", " 0", s->run.struct_size = 0)                  \
    ROW(run_x, RUN, FBN_ERR_NULL_POINTER, "x", "", s->run.x = NULL)                                \
    ROW(run_y, RUN, FBN_ERR_NULL_POINTER, "y", "", s->run.y = NULL)                                \
    ROW(run_batch, RUN, FBN_ERR_SIZE, "batch", LEAST, s->run.batch = INT64_MIN)                    \
    ROW(run_batch_largest, RUN, FBN_ERR_OVERFLOW, LARGEST, "", s->run.batch = INT64_MAX)           \
    ROW(run_ldx, RUN, FBN_ERR_LEADING_DIMENSION, "ldx is 4", "5", s->run.ldx = 4)                  \
    ROW(run_ldy, RUN, FBN_ERR_LEADING_DIMENSION, "ldy is 1", "4", s->run.ldy = 1)                  \
    ROW(run_y_is_x, RUN, FBN_ERR_OVERLAP, "y", "x", s->run.y = s->inferred.a[ARG_X].data)          \
    ROW(run_y_odd, RUN, FBN_ERR_ALIGNMENT, "y", "", s->run.y = BYTE(s->run.y, 1))                  \
    ROW(run_size_bytes, RUN_WORKSPACE_SIZE, FBN_ERR_NULL_POINTER, "bytes", "",                     \
        s->bytes_out = NULL)                                                                       \
    ROW(run_size_prepared, RUN_WORKSPACE_SIZE, FBN_ERR_NULL_POINTER, "prepared", "",               \
        s->prepared = NULL)                                                                        \
    ROW(run_size_batch, RUN_WORKSPACE_SIZE, FBN_ERR_SIZE, "batch", "-9", s->batch = -9)

#define ROWS_OF_LAYER                                                                              \
    ROW(create_layer, CREATE, FBN_ERR_NULL_POINTER, "layer", "", s->layer_out = NULL)              \
    ROW(create_context, CREATE, FBN_ERR_NULL_POINTER, "context", "", s->context = NULL)            \
    ROW(create_desc, CREATE, FBN_ERR_NULL_POINTER, "desc", "", s->desc_in = NULL)                  \
    ROW(desc_size_0, CREATE, FBN_ERR_STRUCT_SIZE, "desc", " 0", s->desc.struct_size = 0)           \
    ROW(desc_size_max, CREATE, FBN_ERR_STRUCT_SIZE, "desc", "18446744073709551615",                \
        s->desc.struct_size = SIZE_MAX)                                                            \
    ROW(in_0, CREATE, FBN_ERR_SIZE, "in_features is 0", "", s->desc.in_features = 0)               \
    ROW(in_least, CREATE, FBN_ERR_SIZE, "in_features", LEAST, s->desc.in_features = INT64_MIN)     \
    ROW(out_0, CREATE, FBN_ERR_SIZE, "out_features is 0", "", s->desc.out_features = 0)            \
    ROW(out_minus, CREATE, FBN_ERR_SIZE, "out_features is -64", "", s->desc.out_features = -64)    \
    ROW(batch_0, CREATE, FBN_ERR_SIZE, "max_batch is 0", "", s->desc.max_batch = 0)                \
    ROW(max_least, CREATE, FBN_ERR_SIZE, "max_batch", LEAST, s->desc.max_batch = INT64_MIN)        \
    ROW(in_largest, CREATE, FBN_ERR_OVERFLOW, LARGEST, "", s->desc.in_features = INT64_MAX)        \
    ROW(out_largest, CREATE, FBN_ERR_OVERFLOW, LARGEST, "", s->desc.out_features = INT64_MAX)      \
    ROW(max_largest, CREATE, FBN_ERR_OVERFLOW, LARGEST, "", s->desc.max_batch = INT64_MAX)         \
    ROW(weight_2_63, CREATE, FBN_ERR_OVERFLOW, "2147483648", "1073741824",                         \
        (s->desc.in_features = INT64_C(1) << 31, s->desc.out_features = INT64_C(1) << 30))         \
    ROW(y_2_64, CREATE, FBN_ERR_OVERFLOW, "4294967296", "",                                        \
        s->desc.max_batch = s->desc.out_features = INT64_C(1) << 32)                               \
    ROW(dtype_4, CREATE, FBN_ERR_ENUM, "dtype", "4", s->desc.dtype = (fbn_dtype)4)                 \
    ROW(dtype_minus, CREATE, FBN_ERR_ENUM, "dtype", "-1", s->desc.dtype = (fbn_dtype)-1)           \
    ROW(math_2, CREATE, FBN_ERR_ENUM, "math", "2", s->desc.math = (fbn_math)2)                     \
    ROW(pre_3, CREATE, FBN_ERR_ENUM, "pre_scale", "3", s->desc.pre_scale = (fbn_scale)3)           \
    ROW(post_77, CREATE, FBN_ERR_ENUM, "post_scale", "77", s->desc.post_scale = (fbn_scale)77)     \
    ROW(act_6, CREATE, FBN_ERR_ENUM, "activation", "6", s->desc.activation = (fbn_activation)6)    \
    ROW(flags_16, CREATE, FBN_ERR_ENUM, "flags", "0x10", s->desc.flags |= 16)                      \
    ROW(eps_minus, CREATE, FBN_ERR_INVALID_ARGUMENT, "eps", "-1e-05", s->desc.eps = -1e-5)         \
    ROW(eps_nan, CREATE, FBN_ERR_INVALID_ARGUMENT, "eps", "nan", s->desc.eps = NAN)                \
    ROW(eps_inf, CREATE, FBN_ERR_INVALID_ARGUMENT, "eps", "inf", s->desc.eps = HUGE_VAL)           \
    ROW(momentum_over, CREATE, FBN_ERR_INVALID_ARGUMENT, "momentum", "1.5",                        \
        s->desc.momentum = 1.5)                                                                    \
    ROW(momentum_under, CREATE, FBN_ERR_INVALID_ARGUMENT, "momentum", "-0.1",                      \
        s->desc.momentum = -0.1)                                                                   \
    ROW(momentum_nan, CREATE, FBN_ERR_INVALID_ARGUMENT, "momentum", "nan", s->desc.momentum = NAN) \
    ROW(kernel, CREATE, FBN_ERR_UNSUPPORTED, "kernel", "nonesuch", s->desc.kernel = "nonesuch")    \
    ROW(workspace_odd, CREATE, FBN_ERR_ALIGNMENT, "workspace", "",                                 \
        (s->desc.workspace = BYTE(s->workspace.data, 4), s->desc.workspace_size = SIZE_MAX))       \
    ROW(size_bytes, WORKSPACE_SIZE, FBN_ERR_NULL_POINTER, "bytes", "", s->bytes_out = NULL)        \
    ROW(size_context, WORKSPACE_SIZE, FBN_ERR_NULL_POINTER, "context", "", s->context = NULL)      \
    ROW(size_desc, WORKSPACE_SIZE, FBN_ERR_NULL_POINTER, "desc", "", s->desc_in = NULL)            \
    ROW(size_in, WORKSPACE_SIZE, FBN_ERR_SIZE, "in_features", "-1", s->desc.in_features = -1)      \
    ROW(saved_layer, SAVED_SIZE, FBN_ERR_NULL_POINTER, "layer", "", s->layer = NULL)               \
    ROW(saved_bytes, SAVED_SIZE, FBN_ERR_NULL_POINTER, "bytes", "", s->bytes_out = NULL)           \
    ROW(saved_batch, SAVED_SIZE, FBN_ERR_SIZE, "batch", "-1", s->batch = -1)                       \
    ROW(saved_batch_9, SAVED_SIZE, FBN_ERR_BATCH_TOO_LARGE, "is 9", "8", s->batch = 9)

#define ROWS_OF_CONTEXT                                                                            \
    ROW(context_out, CONTEXT, FBN_ERR_NULL_POINTER, "context", "", s->context_out = NULL)          \
    ROW(options_size, CONTEXT, FBN_ERR_STRUCT_SIZE, "options", " 0", s->options.struct_size = 0)   \
    ROW(backend_3, CONTEXT, FBN_ERR_ENUM, "backend", "3", s->options.backend = (fbn_backend)3)     \
    ROW(threads, CONTEXT, FBN_ERR_INVALID_ARGUMENT, "threads", "-4", s->options.threads = -4)      \
    ROW(allocator_size, CONTEXT, FBN_ERR_STRUCT_SIZE, "host_allocator", " 0",                      \
        s->allocator.struct_size = 0)                                                              \
    ROW(no_allocate, CONTEXT, FBN_ERR_NULL_POINTER, "allocate", "", s->allocator.allocate = NULL)  \
    ROW(no_deallocate, CONTEXT, FBN_ERR_NULL_POINTER, "deallocate", "",                            \
        s->allocator.deallocate = NULL)                                                            \
    ROW(alloc_context, ALLOC, FBN_ERR_NULL_POINTER, "context", "", s->context = NULL)              \
    ROW(alloc_out, ALLOC, FBN_ERR_NULL_POINTER, "pointer", "", s->memory_out = NULL)               \
    ROW(alloc_all, ALLOC, FBN_ERR_OUT_OF_MEMORY, "18446744073709551615", "",                       \
        s->alloc_bytes = SIZE_MAX)                                                                 \
    ROW(alloc_much, ALLOC, FBN_ERR_OUT_OF_MEMORY, "4611686018427387904", "",                       \
        s->alloc_bytes = (size_t)1 << 62)                                                          \
    ROW(free_context, FREE, FBN_ERR_NULL_POINTER, "context", "", s->context = NULL)                \
    ROW(upload_context, UPLOAD, FBN_ERR_NULL_POINTER, "context", "", s->context = NULL)            \
    ROW(upload_target, UPLOAD, FBN_ERR_NULL_POINTER, "target", "", s->copy_target = NULL)          \
    ROW(upload_source, UPLOAD, FBN_ERR_NULL_POINTER, "source", "", s->copy_source = NULL)          \
    ROW(download_target, DOWNLOAD, FBN_ERR_NULL_POINTER, "target", "", s->copy_target = NULL)      \
    ROW(download_source, DOWNLOAD, FBN_ERR_NULL_POINTER, "source", "", s->copy_source = NULL)      \
    ROW(stream_context, SET_STREAM, FBN_ERR_NULL_POINTER, "context", "", s->context = NULL)        \
    ROW(sync_context, SYNCHRONIZE, FBN_ERR_NULL_POINTER, "context", "", s->context = NULL)         \
    ROW(available_9, AVAILABLE, FBN_ERR_ENUM, "backend", "9", s->backend = (fbn_backend)9)
