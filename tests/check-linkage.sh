#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# What the built files need at run time. The library and the command need no CUDA, so that one
# package serves machines with and without it; the library needs no JSON library and does not look
# into the build directory. The CUDA module needs cuBLAS, but no driver and no runtime library, which
# it has in itself, and not the core; it exports one symbol.

set -eu
: "${READELF:=readelf}" "${NM:=nm}"
library=.libs/libfusedbn.so
module=fusedbn-cuda.so
cuda="libcuda libcudart libcublas libnv"
status=0
looked=0

fail()
{
    echo "FAILED: $*" >&2
    status=1
}

# needs FILE NAME: whether a needed library's name begins so.
needs()
{
    "$READELF" -d "$1" | grep NEEDED | grep -q -F "[$2"
}

# needs_none FILE NAME...
needs_none()
{
    file=$1
    shift
    "$READELF" -d "$file" | grep -E 'NEEDED|RPATH|RUNPATH' | sed "s|^|$file:|"
    for name in "$@"; do
        ! needs "$file" "$name" || fail "$file needs $name"
    done
    looked=$((looked + 1))
}

if [ -e "$library" ]; then
    # shellcheck disable=SC2086 # a list of names
    needs_none "$library" $cuda libjansson
    needs "$library" libc. || fail "$library was expected to need the C library"
    if "$READELF" -d "$library" | grep -E 'RPATH|RUNPATH' | grep -q -F "$PWD"; then
        fail "$library looks for libraries in the build directory"
    fi
    "$READELF" -d "$library" | grep SONAME | grep -q 'libfusedbn\.so\.0' ||
        fail "$library is not named libfusedbn.so.0"
fi

# With a shared library, libtool keeps the command itself in .libs.
for command in .libs/fusedbn fusedbn; do
    if [ -e "$command" ]; then
        # shellcheck disable=SC2086 # a list of names
        needs_none "$command" $cuda
        needs "$command" libjansson || fail "$command was expected to need the Jansson library"
        break
    fi
done

if [ -e "$module" ]; then
    needs_none "$module" libcuda.so libcudart libfusedbn libopenblas libgomp libomp
    needs "$module" libcublas. || fail "$module was expected to need cuBLAS"
    # shellcheck disable=SC2086 # NM may be several words
    exported=$($NM -D --defined-only "$module" | awk '{ print $3 }' | tr '\n' ' ')
    [ "$exported" = "fbni_module " ] || fail "$module exports: $exported"
fi

if [ "$looked" -eq 0 ]; then
    echo "nothing in this build to look at"
    exit 77
fi
exit "$status"
