#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The build copies this to tests/test_NAME.cuda, which runs tests/test_NAME on the CUDA backend.

FUSEDBN_TEST_BACKEND=cuda
export FUSEDBN_TEST_BACKEND
exec "${0%.cuda}" "$@"
