#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# `fusedbn info` gives the reason why CUDA is not there, whatever it is, and ends well; asking for
# CUDA all the same fails with that reason. The modules and the driver are tests/test_loader.c's, so
# that no GPU and no driver has a part in this.

set -eu
unset FUSEDBN_BACKEND
work=check-backends.tmp
rm -rf "$work"
mkdir "$work"
trap 'rm -rf "$work"' EXIT

if [ ! -x fusedbn ] || [ ! -e tests/module_driver.so ]; then
    echo "no fusedbn command or no modules in this build"
    exit 77
fi
ln -s ../tests/module_driver.so "$work/libcuda.so.1"
# After the libraries that the program may need to be told of, say by an earlier test's wrapper.
LD_LIBRARY_PATH=$PWD/$work${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
status=0

fail()
{
    echo "FAILED: $*" >&2
    cat "$work/said" >&2
    status=1
}

# expect MODULE REASON [VARIABLE=VALUE...]
expect()
{
    module=$1 reason=$2
    shift 2
    if ! env "$@" FUSEDBN_CUDA_MODULE="$module" ./fusedbn info >"$work/said" 2>&1
    then
        fail "info with $module"
    fi
    for line in "^backend cpu: available" "^backend cuda: not available: .*$reason" \
        "^backend auto: cpu"; do
        grep -q -e "$line" "$work/said" || fail "info with $module lacks: $line"
    done
    if env "$@" FUSEDBN_CUDA_MODULE="$module" FUSEDBN_BACKEND=cuda ./fusedbn info \
        >"$work/said" 2>&1
    then
        fail "info with $module and FUSEDBN_BACKEND=cuda did not fail"
    fi
    grep -q -e "FUSEDBN_BACKEND is cuda: .*$reason" "$work/said" ||
        fail "with $module and FUSEDBN_BACKEND=cuda it did not say: $reason"
    echo "$module $*: $reason: ok"
}

expect "fusedbn-cuda.so" "not an absolute path"
expect "/nonexistent/fusedbn-cuda.so" "No such file or directory"
expect "$PWD/tests/module_abi.so" "ABI 1000000, but libfusedbn .* needs"
expect "$PWD/tests/module_needs.so" "cannot open .*libcublas-absent.so.0"
expect "$PWD/tests/module_other.so" "no symbol fbni_module"
expect "$PWD/tests/module_refuses.so" "the driver has version 3"
if [ -e fusedbn-cuda.so ]; then
    expect "$PWD/fusedbn-cuda.so" "driver is too old: it supports CUDA 9.0" \
        TEST_DRIVER_VERSION=9000
    expect "$PWD/fusedbn-cuda.so" "there is no CUDA device" TEST_DRIVER_INIT=100
fi

# What can be used is used: the sentences above are not said of everything.
FUSEDBN_CUDA_MODULE=$PWD/tests/module_usable.so ./fusedbn info >"$work/said"
grep -q '^backend cuda: available' "$work/said" || fail "a usable module is not available"
grep -q '^backend auto: cuda' "$work/said" || fail "a usable module is not what auto takes"
FUSEDBN_BACKEND=cpu FUSEDBN_CUDA_MODULE=$PWD/tests/module_usable.so ./fusedbn info >"$work/said"
grep -q '^backend auto: cpu' "$work/said" || fail "FUSEDBN_BACKEND=cpu does not override auto"
exit "$status"
