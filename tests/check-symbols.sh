#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The functions that include/fusedbn.h declares, those that the version script names, those that
# fusedbn(3) documents and those that the shared library exports are the same.

set -eu
: "${srcdir:=.}" "${CC:=cc}" "${NM:=nm}"
library=.libs/libfusedbn.so
work=check-symbols.tmp
rm -rf "$work"
mkdir "$work"
trap 'rm -rf "$work"' EXIT

# The compiler takes out comments and directives; FBN_API, renamed, stays. What stands before the
# first parenthesis of a declaration is its name.
sed 's/^FBN_API/FBN_EXPORTED/' "$srcdir/include/fusedbn.h" >"$work/renamed.c"
# shellcheck disable=SC2086 # CC may be several words
$CC -E -P "$work/renamed.c" | tr '\n' ' ' | tr ';' '\n' |
    sed -n 's/.*FBN_EXPORTED[^(]*[ *]\(fbn_[a-z0-9_]*\) *(.*/\1/p' | sort >"$work/header"
sed -n 's/^ *\(fbn_[a-z0-9_]*\);.*/\1/p' "$srcdir/src/fusedbn.map" | sort >"$work/map"
grep -o 'fbn_[a-z0-9_]*' "$srcdir/man/fusedbn.3" | sort -u >"$work/man"

declared=$(grep -c '^FBN_API' "$srcdir/include/fusedbn.h")
found=$(wc -l <"$work/header")
if [ "$found" -eq 0 ] || [ "$found" -ne "$declared" ]; then
    echo "the header has $declared declarations with FBN_API, this script understood $found" >&2
    exit 1
fi

status=0
differ()
{
    echo "$1:" >&2
    cat "$work/difference" >&2
    status=1
}

if ! diff "$work/header" "$work/map" >"$work/difference"; then
    differ "declared in fusedbn.h (<), named in fusedbn.map (>)"
fi
comm -23 "$work/header" "$work/man" >"$work/difference"
[ ! -s "$work/difference" ] || differ "declared in fusedbn.h, not in fusedbn(3)"

if [ -e "$library" ]; then
    # All that is exported but the version's own symbol.
    # shellcheck disable=SC2086 # NM may be several words
    $NM -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort \
        >"$work/exported"
    if ! diff "$work/header" "$work/exported" >"$work/difference"; then
        differ "declared in fusedbn.h (<), exported by $library (>)"
    fi
else
    echo "no shared library in this build: its exports were not compared"
fi
[ "$status" -ne 0 ] || echo "$found functions, the same everywhere"
exit "$status"
