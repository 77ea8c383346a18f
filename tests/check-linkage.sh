#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The core library needs neither CUDA nor the JSON library, and does not look into the build
# directory. That the command is seen to need the JSON library shows that the question is put rightly.

set -eu
: "${READELF:=readelf}"
library=.libs/libfusedbn.so
command=.libs/fusedbn

if [ ! -e "$library" ]; then
    echo "no shared library in this build"
    exit 77
fi

dynamic=$("$READELF" -d "$library")
printf '%s\n' "$dynamic"
status=0
for unwanted in cuda cublas nvidia nvrtc jansson; do
    if printf '%s\n' "$dynamic" | grep NEEDED | grep -q "$unwanted"; then
        echo "$library needs a library named like $unwanted" >&2
        status=1
    fi
done
if printf '%s\n' "$dynamic" | grep -E 'RPATH|RUNPATH' | grep -q -F "$PWD"; then
    echo "$library looks for libraries in the build directory" >&2
    status=1
fi
if ! printf '%s\n' "$dynamic" | grep SONAME | grep -q 'libfusedbn\.so\.0'; then
    echo "$library is not named libfusedbn.so.0" >&2
    status=1
fi
if [ -e "$command" ] && ! "$READELF" -d "$command" | grep NEEDED | grep -q jansson; then
    echo "$command was expected to need the Jansson library" >&2
    status=1
fi
exit "$status"
