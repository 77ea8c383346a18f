# SPDX-License-Identifier: BSD-3-Clause
# Looks for the CUDA toolkit.

# FBN_CHECK_CUDA: --with-cuda=DIR, --without-cuda and --with-cuda-arch=LIST; sets fbn_cuda to a
# sentence for the summary, NVCC, CUDA_DIR, NVCC_GENCODE and the conditional CUDA.
# The CUDA backend is not finished: its module is built only where it is asked for.
AC_DEFUN([FBN_CHECK_CUDA], [
    AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda@<:@=DIR@:>@],
        [build the CUDA module (a preview) with the toolkit in DIR @<:@default: not built; without
         DIR: that of nvcc in PATH or /usr/local/cuda@:>@])],
        [], [with_cuda=check])
    AC_ARG_WITH([cuda-arch], [AS_HELP_STRING([--with-cuda-arch=LIST],
        [the GPUs that the CUDA module is compiled for @<:@default: those of 80,86,89,90a,100 that
         the toolkit knows@:>@])],
        [], [with_cuda_arch=80,86,89,90a,100])
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
    fbn_build_cuda=no
    AS_IF([test "x$with_cuda" = xno], [],
        [test "x$with_cuda$NVCC" = xcheck],
        [fbn_cuda="no (no toolkit found; a preview, built with --with-cuda)"],
        [test "x$with_cuda" = xcheck],
        [fbn_cuda="no (toolkit $fbn_nvcc_version found; a preview, built with --with-cuda)"],
        [test "x$NVCC" = x],
        [AC_MSG_ERROR([--with-cuda=$with_cuda: no nvcc that runs was found there.
Give the toolkit's directory (the one with bin/nvcc), or --without-cuda.])],
        [fbn_build_cuda=yes])
    AS_IF([test $fbn_build_cuda = yes], [
        CUDA_DIR=`dirname "$NVCC"`
        CUDA_DIR=`dirname "$CUDA_DIR"`
        # libtool would split "-gencode arch=...", so there is an equals sign; PTX of the newest one
        # lets later GPUs run it.
        NVCC_GENCODE=
        fbn_newest=
        for fbn_arch in `echo "$with_cuda_arch" | tr , ' '`; do
            AS_IF(["$NVCC" --list-gpu-arch | grep -qx "compute_`echo $fbn_arch | tr -d a`"], [
                NVCC_GENCODE="$NVCC_GENCODE -gencode=arch=compute_$fbn_arch,code=sm_$fbn_arch"
                fbn_newest=$fbn_arch])
        done
        AS_IF([test "x$fbn_newest" = x],
            [AC_MSG_ERROR([--with-cuda-arch=$with_cuda_arch: $NVCC knows none of these])])
        AS_CASE([$fbn_newest], [*a], [],
            [NVCC_GENCODE="$NVCC_GENCODE -gencode=arch=compute_$fbn_newest,code=compute_$fbn_newest"])
        fbn_cuda="a preview, toolkit $fbn_nvcc_version, for $with_cuda_arch"
    ])
    AC_SUBST([NVCC])
    AC_SUBST([CUDA_DIR])
    AC_SUBST([NVCC_GENCODE])
    AM_CONDITIONAL([CUDA], [test $fbn_build_cuda = yes])
])
