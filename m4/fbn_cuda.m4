# SPDX-License-Identifier: BSD-3-Clause
# Looks for the CUDA toolkit.

# FBN_CHECK_CUDA: --with-cuda=DIR and --without-cuda; sets fbn_cuda to a sentence for the summary.
# This release has no CUDA module to build, so a toolkit that was found is reported and not used.
AC_DEFUN([FBN_CHECK_CUDA], [
    AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda@<:@=DIR@:>@],
        [look for the CUDA toolkit in DIR; this release only reports it @<:@default: found by nvcc
         in PATH or in /usr/local/cuda@:>@])],
        [], [with_cuda=check])
    NVCC=
    AS_CASE([$with_cuda],
        [no], [fbn_cuda="no (--without-cuda)"],
        [yes|check], [AC_PATH_PROG([NVCC], [nvcc], [], [$PATH$PATH_SEPARATOR/usr/local/cuda/bin])],
        [AC_PATH_PROG([NVCC], [nvcc], [], [$with_cuda/bin])])
    AS_IF([test "x$NVCC" != x], [
        AC_MSG_CHECKING([for the version of $NVCC])
        fbn_nvcc_version=`"$NVCC" --version 2>/dev/null | sed -n 's/.*release \(@<:@0-9.@:>@*\).*/\1/p'`
        AC_MSG_RESULT([${fbn_nvcc_version:-none}])
        AS_IF([test "x$fbn_nvcc_version" = x], [NVCC=])
    ])
    AS_IF([test "x$NVCC" != x],
        [fbn_cuda="no (toolkit $fbn_nvcc_version found; this release has the CPU backend alone)"],
        [test "x$with_cuda" = xno], [],
        [test "x$with_cuda" = xcheck],
        [fbn_cuda="no (no toolkit found; this release has the CPU backend alone)"],
        [AC_MSG_ERROR([--with-cuda=$with_cuda: no nvcc that runs was found there.
Give the toolkit's directory (the one with bin/nvcc), or --without-cuda.])])
])
