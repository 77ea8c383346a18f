#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# include/fusedbn.h compiles by itself, copied away from the other headers, as C99, C11 and C++.

set -eu
: "${srcdir:=.}" "${CC:=cc}" "${CXX:=none}"
work=check-header.tmp
rm -rf "$work"
mkdir "$work"
trap 'rm -rf "$work"' EXIT
cp "$srcdir/include/fusedbn.h" "$work/"
# Twice, for the include guard; then a use, for the linkage.
cat >"$work/alone.c" <<'END'
#include "fusedbn.h"
#include "fusedbn.h"
const char *(*text)(fbn_status) = fbn_status_string;
uint64_t flags = FBN_CUMULATIVE_AVERAGE | FBN_ACCUMULATE;
END
cp "$work/alone.c" "$work/alone.cc"

warnings="-pedantic-errors -Wall -Wextra -Wundef -Werror"
# shellcheck disable=SC2086 # CC, CXX and the warnings are lists of words
{
    for standard in c99 c11; do
        $CC -std=$standard $warnings -Wstrict-prototypes -c -o "$work/alone.o" "$work/alone.c"
        echo "$CC -std=$standard: ok"
    done
    if [ "$CXX" = none ]; then
        echo "no C++ compiler: C++ was not tried"
        exit 77
    fi
    for standard in c++11 c++17; do
        $CXX -std=$standard $warnings -c -o "$work/alone.o" "$work/alone.cc"
        echo "$CXX -std=$standard: ok"
    done
}
