# SPDX-License-Identifier: BSD-3-Clause
# Finds a CBLAS.

# FBN_TRY_BLAS(DESCRIPTION, CFLAGS, LIBS): takes this candidate if none was taken before and a
# program that calls the functions the library needs compiles and links with it.
AC_DEFUN([FBN_TRY_BLAS], [
    AS_IF([test "x$fbn_blas" = x], [
        AC_MSG_CHECKING([for CBLAS in $1])
        fbn_save_CPPFLAGS=$CPPFLAGS
        fbn_save_LIBS=$LIBS
        CPPFLAGS="$CPPFLAGS $2"
        LIBS="$3 $LIBS"
        AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <cblas.h>]], [[
            float a = 1, c = 0;
            double d = 1, e = 0;
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, 1, 1, 1, 1, &a, 1, &a, 1, 0, &c, 1);
            cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, 1, 1, 1, 1, &d, 1, &d, 1, 0, &e, 1);
            cblas_sgemv(CblasRowMajor, CblasNoTrans, 1, 1, 1, &a, 1, &a, 1, 0, &c, 1);]])],
            [fbn_blas="$1" BLAS_CFLAGS="$2" BLAS_LIBS="$3"
            AC_MSG_RESULT([yes])],
            [AC_MSG_RESULT([no])])
        CPPFLAGS=$fbn_save_CPPFLAGS
        LIBS=$fbn_save_LIBS
    ])
])

# FBN_TRY_BLAS_MODULE(MODULE): the same with what pkg-config says about MODULE. Static linking
# needs nothing more here: the library's own Libs.private has OpenMP and the mathematics library.
AC_DEFUN([FBN_TRY_BLAS_MODULE], [
    AS_IF([test "x$fbn_blas" = x && $PKG_CONFIG --exists "$1" 2>/dev/null], [
        fbn_module_cflags=`$PKG_CONFIG --cflags "$1"`
        fbn_module_libs=`$PKG_CONFIG --libs "$1"`
        FBN_TRY_BLAS([pkg-config module $1], [$fbn_module_cflags], [$fbn_module_libs])
    ])
])

# FBN_CHECK_BLAS: --with-blas; sets BLAS_CFLAGS, BLAS_LIBS, fbn_blas (where it was found) and
# fbn_blas_threads (its threading, as far as it says so), and defines HAVE_OPENBLAS_... .
AC_DEFUN([FBN_CHECK_BLAS], [
    AC_REQUIRE([PKG_PROG_PKG_CONFIG])
    AC_ARG_WITH([blas], [AS_HELP_STRING([--with-blas=BLAS],
        [the CBLAS to use: a pkg-config module, a library name, the directory of an OpenBLAS, a
         library file, or linker flags @<:@default: openblas, else cblas and blas@:>@])],
        [], [with_blas=yes])
    fbn_blas=
    AS_CASE([$with_blas],
        [no], [AC_MSG_ERROR([the CPU backend needs a CBLAS; --without-blas is not possible])],
        [yes], [
            FBN_TRY_BLAS_MODULE([openblas])
            FBN_TRY_BLAS([-lopenblas], [], [-lopenblas])
            FBN_TRY_BLAS([-lcblas -lblas], [], [-lcblas -lblas])],
        [-*], [FBN_TRY_BLAS([$with_blas], [], [$with_blas])],
        [/*], [
            AS_IF([test -d "$with_blas"], [
                for fbn_dir in "$with_blas/lib" "$with_blas/lib64" "$with_blas"; do
                    AS_IF([test -e "$fbn_dir/libopenblas.so" || test -e "$fbn_dir/libopenblas.a"], [
                        FBN_TRY_BLAS([$fbn_dir],
                                     [-I$with_blas/include -I$with_blas], [-L$fbn_dir -lopenblas])
                    ])
                done
            ], [
                FBN_TRY_BLAS([$with_blas], [], [$with_blas])
            ])],
        [
            FBN_TRY_BLAS_MODULE([$with_blas])
            FBN_TRY_BLAS([-l$with_blas], [], [-l$with_blas])
        ])
    AS_IF([test "x$fbn_blas" = x], [
        AS_IF([test "x$with_blas" = xyes],
            [AC_MSG_ERROR([no CBLAS found (header cblas.h and a library with cblas_sgemm).
On Debian and Ubuntu: apt-get install libopenblas-openmp-dev
Elsewhere: install OpenBLAS, or point to a CBLAS with --with-blas=BLAS, CPPFLAGS and LDFLAGS.])],
            [AC_MSG_ERROR([--with-blas=$with_blas: no program that calls cblas_sgemm compiles and links with it; config.log has the details.])])
    ])
    AC_SUBST([BLAS_CFLAGS])
    AC_SUBST([BLAS_LIBS])

    fbn_save_CPPFLAGS=$CPPFLAGS
    fbn_save_LIBS=$LIBS
    CPPFLAGS="$CPPFLAGS $BLAS_CFLAGS"
    LIBS="$BLAS_LIBS $LIBS"
    AC_CHECK_FUNCS([openblas_get_parallel openblas_get_config openblas_get_num_threads])
    fbn_blas_threads=unknown
    AS_IF([test "x$ac_cv_func_openblas_get_parallel" = xyes], [
        AC_CACHE_CHECK([how the BLAS is threaded], [fbn_cv_blas_threads], [
            AC_RUN_IFELSE([AC_LANG_PROGRAM([[int openblas_get_parallel(void);]],
                                           [[return 10 + openblas_get_parallel();]])],
                          [fbn_cv_blas_threads=unknown],
                          [AS_CASE([$?], [10], [fbn_cv_blas_threads=serial],
                                         [11], [fbn_cv_blas_threads=pthread],
                                         [12], [fbn_cv_blas_threads=OpenMP],
                                         [fbn_cv_blas_threads=unknown])],
                          [fbn_cv_blas_threads=unknown])
        ])
        fbn_blas_threads=$fbn_cv_blas_threads
    ])
    CPPFLAGS=$fbn_save_CPPFLAGS
    LIBS=$fbn_save_LIBS
])
