/* SPDX-License-Identifier: BSD-3-Clause
 * What `fusedbn --help` and `fusedbn COMMAND --help` say. man/fusedbn.1 says more.
 */
#include "options.h"

#include <stdio.h>

/* clang-format off */
static const char general_text[] =
    "Usage: fusedbn run|fold|info [OPTION]...\n"
    "Run a linear layer and its batch normalisation as one operation.\n"
    "\n"
    "  run      compute a layer's output, in training or in inference\n"
    "  fold     write the plain linear layer that equals it in inference\n"
    "  info     say what this machine and this build can do\n"
    "\n"
    "  fusedbn COMMAND --help   explains a command\n"
    "  fusedbn --version        prints the version\n"
    "\n"
    "Exit status: 0 success, 1 failure, 2 wrong usage.\n";

#define CHAIN_TEXT                                                                                 \
    "  --chain linear-scale-bn          y = act(BatchNorm(scale * (x W^T + b)))\n"                 \
    "          linear-bn-scale-softmax  y = softmax(scale * BatchNorm(x W^T + b))\n"

#define KEYS_TEXT                                                                                  \
    "The model's tensors, after the prefix: gemm.weight [O,I]; and where there are any:\n"         \
    "gemm.bias [O], scale [1] or [O], bn.weight [O], bn.bias [O], bn.running_mean [O],\n"          \
    "bn.running_var [O], bn.num_batches_tracked.\n"

static const char run_text[] =
    "Usage: fusedbn run --chain C --mode train|infer --model M --input X --output Y [OPTION]...\n"
    "Compute a fused layer on the rows of X [N,I] and write Y [N,O].\n"
    "\n"
    CHAIN_TEXT
    "  --mode infer                     normalise by the running statistics\n"
    "         train                     normalise by the batch's own statistics\n"
    "  --model M.safetensors            the layer's parameters, under PyTorch's names\n"
    "  --prefix P                       what precedes those names, as in --prefix layer1.\n"
    "  --input X                        .npy, or .safetensors with a tensor x or only one\n"
    "  --output Y                       .npy, or .safetensors with a tensor y\n"
    "  --save-model M2.safetensors      train: the whole model with the running statistics\n"
    "                                   updated; without it they are not kept\n"
    "  --backend auto|cpu|cuda          default auto: CUDA where it is available\n"
    "  --dtype f64|f32|bf16|f16         of the computation and of Y; default: the weight's\n"
    "  --math fp32|tf32                 default fp32; tf32 is faster on GPUs, f32 alone\n"
    "  --activation none|relu|gelu|silu|softmax|log_softmax\n"
    "                                   default: the chain's own, none or softmax\n"
    "  --eps E                          added to the variance; default 1e-5\n"
    "  --momentum M|cumulative          weight of the batch in the statistics; default 0.1\n"
    "\n"
    KEYS_TEXT
    "\n"
    "A bf16 result is written to .npy as f32. Files are replaced whole or not at all.\n";

static const char fold_text[] =
    "Usage: fusedbn fold --chain C --model M --output F.safetensors [OPTION]...\n"
    "Write `weight` [O,I] and `bias` [O] of the plain linear layer that equals the fused layer in\n"
    "inference, up to the activation.\n"
    "\n"
    CHAIN_TEXT
    "  --model M.safetensors            the layer's parameters, under PyTorch's names\n"
    "  --prefix P                       what precedes those names, as in --prefix layer1.\n"
    "  --output F.safetensors           the plain layer\n"
    "  --backend auto|cpu|cuda          default auto: CUDA where it is available\n"
    "  --dtype f64|f32|bf16|f16         of both tensors; default: the weight's in M\n"
    "  --eps E                          added to the variance; default 1e-5\n"
    "\n"
    KEYS_TEXT;

static const char info_text[] =
    "Usage: fusedbn info\n"
    "Print the backends, and why one is unavailable; the CPU, its BLAS and threads; the kernels,\n"
    "and why one cannot run here.\n";
/* clang-format on */

void help_general(void)
{
    fputs(general_text, stdout);
}

void help_command(enum command command)
{
    static const char *const texts[] = {
        [COMMAND_RUN] = run_text, [COMMAND_FOLD] = fold_text, [COMMAND_INFO] = info_text};

    fputs(texts[command], stdout);
}
