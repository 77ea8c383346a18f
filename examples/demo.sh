#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# From images to predictions: trains a network on handwritten digits, serves the images that it has
# not seen with the fusedbn command, and compares with the unfused computation.
#
#   demo.sh [BUILD_DIR]      where fusedbn and examples/digits were built; default: .

set -eu

build=${1:-.}
examples=$(dirname "$0")
out=$build/examples/demo

title()
{
    printf '\n== %s ==\n' "$*"
}

# Shows a command as a user would type it, then runs it.
run()
{
    printf '$ %s\n' "$*"
    "$@"
}

# serve LAYER CHAIN ACTIVATION INPUT OUTPUT
serve()
{
    run "$build/fusedbn" run --prefix "$1." --chain "$2" --mode infer --activation "$3" \
        --model "$out/model.safetensors" --input "$out/$4" --output "$out/$5"
}

for program in fusedbn examples/digits examples/digits_check; do
    if [ ! -x "$build/$program" ]; then
        echo "demo: $build/$program is not there; run make demo" >&2
        exit 1
    fi
done
mkdir -p "$out"

title 'Training a 64-256-256-10 network on the UCI handwritten digits'
run "$build/examples/digits" --data "$examples/data/digits.csv" --output "$out"

title 'Serving the held-out images with the fusedbn command, a layer a call'
serve layer1 linear-scale-bn relu heldout.npy hidden1.npy
serve layer2 linear-scale-bn relu hidden1.npy hidden2.npy
serve layer3 linear-bn-scale-softmax log_softmax hidden2.npy served.npy

title 'Scoring what was served, and comparing it with the unfused computation'
run "$build/examples/digits_check" "$out/model.safetensors" "$out/heldout.npy" "$out/labels.npy" \
    "$out/served.npy"
