#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The build copies this to DIR/NAME.cuda, which runs DIR/NAME on the CUDA backend. Where the machine
# has no GPU it is skipped, with the reason; that the module of this build cannot be opened is no
# such reason.

FUSEDBN_BACKEND=cuda
FUSEDBN_TEST_BACKEND=cuda
export FUSEDBN_BACKEND FUSEDBN_TEST_BACKEND

# Without the command, the suite's programs find out by themselves.
if [ -x fusedbn ] && said=$(FUSEDBN_BACKEND=cpu ./fusedbn info | grep '^backend cuda: not '); then
    case $said in
    *"the module"* | *"no module"* | *" ABI "* | *"not installed"*)
        echo "FAILED: $said" >&2
        exit 1
        ;;
    esac
    echo "skipped: $said"
    exit 77
fi
exec "${0%.cuda}" "$@"
