# SPDX-License-Identifier: BSD-3-Clause
# Looks for the CUDA toolkit, and asks it what it compiles for.

# FBN_NVCC_COMPILES(GENCODE, IF-YES, IF-NO): whether nvcc compiles an empty kernel with it.
AC_DEFUN([FBN_NVCC_COMPILES], [
    echo '__global__ void kernel(void) {}' > conftest.cu
    echo "$NVCC $NVCCFLAGS $1" >&AS_MESSAGE_LOG_FD
    AS_IF(["$NVCC" $NVCCFLAGS -std=c++17 --threads=2 $1 -c conftest.cu -o conftest.o \
               >&AS_MESSAGE_LOG_FD 2>&1],
          [rm -f conftest.cu conftest.o
           $2],
          [rm -f conftest.cu conftest.o
           $3])
])

# FBN_FIND_NVCC: sets NVCC, where it is not set: --with-cuda=DIR, CUDA_HOME, CUDA_PATH, PATH,
# /usr/local/cuda.
AC_DEFUN([FBN_FIND_NVCC], [
    AS_CASE([$with_cuda],
        [yes|check], [fbn_nvcc_path=${CUDA_HOME:+$CUDA_HOME/bin$PATH_SEPARATOR}dnl
${CUDA_PATH:+$CUDA_PATH/bin$PATH_SEPARATOR}$PATH$PATH_SEPARATOR/usr/local/cuda/bin],
        [fbn_nvcc_path=$with_cuda/bin])
    AC_PATH_PROG([NVCC], [nvcc], [], [$fbn_nvcc_path])
])

# FBN_CUDA_ARCHITECTURES(LIST, FROM-USER): sets NVCC_GENCODE, HOPPER_GENCODE and fbn_cuda_archs
# from a list like 80,90a,100+ptx. What nvcc does not compile for is left out of the default list
# and is an error in the user's.
AC_DEFUN([FBN_CUDA_ARCHITECTURES], [
    for fbn_item in `echo "$1" | tr , ' '`; do
        fbn_arch=`echo $fbn_item | sed 's/+ptx$//'`
        # One word each, with equals signs: they pass through lists and a shell.
        fbn_gencode="-gencode=arch=compute_$fbn_arch,code=sm_$fbn_arch"
        AS_CASE([$fbn_item],
            [*+ptx], [fbn_gencode="$fbn_gencode -gencode=arch=compute_$fbn_arch,code=compute_$fbn_arch"])
        AC_MSG_CHECKING([whether nvcc compiles for sm_$fbn_item])
        FBN_NVCC_COMPILES([$fbn_gencode], [
            AC_MSG_RESULT([yes])
            NVCC_GENCODE="$NVCC_GENCODE $fbn_gencode"
            AS_CASE([$fbn_arch], [90a], [HOPPER_GENCODE=$fbn_gencode])
            fbn_cuda_archs="$fbn_cuda_archs${fbn_cuda_archs:+,}$fbn_item"
            fbn_newest=`echo $fbn_arch | sed 's/@<:@af@:>@$//'`
        ], [
            AC_MSG_RESULT([no])
            AS_IF([test "x$2" = xyes],
                [AC_MSG_ERROR([--with-cuda-arch=$1: $NVCC (CUDA $fbn_nvcc_version) does not compile for "$fbn_item".
The list is of compute capabilities without their dot, with "+ptx" for PTX too: 80,90a,100+ptx])])
        ])
    done
])

# FBN_CHECK_CUDA: --with-cuda=DIR, --without-cuda and --with-cuda-arch=LIST; sets fbn_cuda to a
# sentence for the summary, NVCC, CUDA_CPPFLAGS, CUDA_LDFLAGS, NVCC_GENCODE, HOPPER_GENCODE, and
# the conditionals CUDA and HOPPER (sm_90a is among the architectures).
AC_DEFUN([FBN_CHECK_CUDA], [
    AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda@<:@=DIR@:>@],
        [build the CUDA module with the toolkit in DIR @<:@default: with that of CUDA_HOME,
         CUDA_PATH, nvcc in PATH or /usr/local/cuda, if there is one@:>@])],
        [], [with_cuda=check])
    AC_ARG_WITH([cuda-arch], [AS_HELP_STRING([--with-cuda-arch=LIST],
        [the GPUs that the CUDA module is compiled for, say 80,90a,100+ptx @<:@default: those of
         75,80,86,90a,100 that the toolkit knows, and PTX of the newest@:>@])],
        [], [with_cuda_arch=default])
    AC_ARG_VAR([NVCC], [the CUDA compiler])
    AC_ARG_VAR([NVCCFLAGS], [its flags, say -ccbin=g++-12])

    CUDA_CPPFLAGS= CUDA_LDFLAGS= NVCC_GENCODE= HOPPER_GENCODE=
    fbn_cuda_archs= fbn_cuda_missing=
    AS_IF([test "x$with_cuda" = xno], [fbn_cuda="no (--without-cuda)"], [
        FBN_FIND_NVCC
        FBN_TRY_CUDA
        AS_IF([test "x$fbn_cuda_missing" = x],
                [fbn_cuda="toolkit $fbn_nvcc_version, for $fbn_cuda_archs"],
              [test "x$with_cuda" = xcheck],
                [fbn_cuda="no ($fbn_cuda_missing)"],
              [AC_MSG_ERROR([--with-cuda=$with_cuda: $fbn_cuda_missing.
Give the toolkit's directory (the one with bin/nvcc), or --without-cuda.])])
    ])
    AC_SUBST([CUDA_CPPFLAGS])
    AC_SUBST([CUDA_LDFLAGS])
    AC_SUBST([NVCC_GENCODE])
    AC_SUBST([HOPPER_GENCODE])
    AM_CONDITIONAL([CUDA], [test "x$fbn_cuda_archs" != x])
    AM_CONDITIONAL([HOPPER], [test "x$HOPPER_GENCODE" != x])
])

# FBN_TRY_CUDA: sets the variables that FBN_CHECK_CUDA promises, or fbn_cuda_missing to a reason.
AC_DEFUN([FBN_TRY_CUDA], [
    fbn_nvcc_version=
    AS_IF([test "x$NVCC" = x], [fbn_cuda_missing="no nvcc was found"], [
        AC_MSG_CHECKING([for the version of $NVCC])
        fbn_nvcc_version=`"$NVCC" --version 2>/dev/null | sed -n 's/.*release \(@<:@0-9.@:>@*\).*/\1/p'`
        AC_MSG_RESULT([${fbn_nvcc_version:-none}])
        AS_IF([test "x$fbn_nvcc_version" = x], [fbn_cuda_missing="$NVCC does not run"])
    ])
    AS_IF([test "x$fbn_cuda_missing" = x], [
        FBN_NVCC_COMPILES([], [],
            [fbn_cuda_missing="$NVCC does not compile, see config.log"])])
    AS_IF([test "x$fbn_cuda_missing" = x], [FBN_CUDA_LIBRARIES])
    AS_IF([test "x$fbn_cuda_missing" = x], [
        AS_IF([test "x$with_cuda_arch" != xdefault],
            [FBN_CUDA_ARCHITECTURES([$with_cuda_arch], [yes])], [
            FBN_CUDA_ARCHITECTURES([75,80,86,90a,100], [no])
            # GPUs that are newer than the toolkit compile it when they first see it.
            AS_IF([test "x$fbn_cuda_archs" != x], [
                NVCC_GENCODE="$NVCC_GENCODE -gencode=arch=compute_$fbn_newest,code=compute_$fbn_newest"
                fbn_cuda_archs="$fbn_cuda_archs+ptx"])
        ])
        AS_IF([test "x$fbn_cuda_archs" = x],
            [fbn_cuda_missing="$NVCC compiles for no GPU that is known here"])
    ])
])

# FBN_CUDA_LIBRARIES: where the toolkit's headers and libraries are. nvcc itself says (--dryrun)
# where its own directory is, whatever wrapper was found. Only a directory that the compiler does
# not know by itself is named.
AC_DEFUN([FBN_CUDA_LIBRARIES], [
    : > conftest.cu
    fbn_cuda_top=`"$NVCC" $NVCCFLAGS --dryrun -c conftest.cu 2>&1 | sed -n 's/^#\$ TOP=//p'`
    rm -f conftest.cu
    AS_IF([test "x$fbn_cuda_top" = x], [fbn_cuda_top=`dirname "$NVCC"`/..])
    fbn_cuda_top=`cd "$fbn_cuda_top" && pwd`
    AC_MSG_CHECKING([for the toolkit of $NVCC])
    fbn_found=no
    fbn_save_CPPFLAGS=$CPPFLAGS
    fbn_save_LDFLAGS=$LDFLAGS
    fbn_save_LIBS=$LIBS
    LIBS="-lcublas -lcudart_static -lrt -lpthread -ldl $LIBS"
    for fbn_lib in lib64 lib none; do
        AS_IF([test $fbn_lib = none], [CUDA_CPPFLAGS= CUDA_LDFLAGS=], [
            test "x$fbn_cuda_top" != x/usr && test -d "$fbn_cuda_top/$fbn_lib" || continue
            CUDA_CPPFLAGS="-isystem $fbn_cuda_top/include"
            CUDA_LDFLAGS="-L$fbn_cuda_top/$fbn_lib"])
        CPPFLAGS="$fbn_save_CPPFLAGS $CUDA_CPPFLAGS"
        LDFLAGS="$fbn_save_LDFLAGS $CUDA_LDFLAGS"
        AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <cublas_v2.h>
                                          #include <cuda_runtime_api.h>]],
                                        [[int n; cublasHandle_t h;
                                          return cudaGetDeviceCount(&n) || cublasCreate(&h);]])],
                       [fbn_found=yes; break])
    done
    # A run path only where programs would not find cuBLAS without one.
    AS_IF([test $fbn_found = yes && test "x$CUDA_LDFLAGS" != x], [
        AC_RUN_IFELSE([AC_LANG_PROGRAM([[#include <cublas_v2.h>]],
                                       [[volatile int never = 0; cublasHandle_t h;
                                         return never ? (int)cublasCreate(&h) : 0;]])],
                      [], [CUDA_LDFLAGS="$CUDA_LDFLAGS -Wl,-rpath,$fbn_cuda_top/$fbn_lib"], [:])
    ])
    CPPFLAGS=$fbn_save_CPPFLAGS
    LDFLAGS=$fbn_save_LDFLAGS
    LIBS=$fbn_save_LIBS
    AS_IF([test $fbn_found = yes],
        [AC_MSG_RESULT([${CUDA_LDFLAGS:-where the compiler looks}])],
        [AC_MSG_RESULT([no])
         CUDA_CPPFLAGS= CUDA_LDFLAGS=
         fbn_cuda_missing="no cuBLAS and static CUDA runtime to link with, see config.log"])
])
