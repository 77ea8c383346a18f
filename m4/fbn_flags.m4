# SPDX-License-Identifier: BSD-3-Clause
# Compiler and linker flags that are used where the compiler or the linker knows them.

# FBN_APPEND_CFLAG(VARIABLE, FLAG): appends FLAG to VARIABLE if the C compiler takes it. -Werror
# because clang only warns about a warning option that it does not know.
AC_DEFUN([FBN_APPEND_CFLAG], [
    AS_VAR_PUSHDEF([fbn_cache], [fbn_cv_cflag_$2])
    AC_CACHE_CHECK([whether $CC accepts $2], [fbn_cache], [
        fbn_save_CFLAGS=$CFLAGS
        CFLAGS="$CFLAGS -Werror $2"
        AC_COMPILE_IFELSE([AC_LANG_PROGRAM()],
                          [AS_VAR_SET([fbn_cache], [yes])], [AS_VAR_SET([fbn_cache], [no])])
        CFLAGS=$fbn_save_CFLAGS
    ])
    AS_VAR_IF([fbn_cache], [yes], [AS_VAR_APPEND([$1], [" $2"])])
    AS_VAR_POPDEF([fbn_cache])
])

# FBN_APPEND_CFLAGS(VARIABLE, FLAGS): the same for each of FLAGS.
AC_DEFUN([FBN_APPEND_CFLAGS], [m4_foreach_w([fbn_flag], [$2], [FBN_APPEND_CFLAG([$1], fbn_flag)])])

# FBN_APPEND_LDFLAG(VARIABLE, FLAG): appends FLAG to VARIABLE if a program links with it.
AC_DEFUN([FBN_APPEND_LDFLAG], [
    AS_VAR_PUSHDEF([fbn_cache], [fbn_cv_ldflag_$2])
    AC_CACHE_CHECK([whether the linker accepts $2], [fbn_cache], [
        fbn_save_LDFLAGS=$LDFLAGS
        LDFLAGS="$LDFLAGS $2"
        AC_LINK_IFELSE([AC_LANG_PROGRAM()],
                       [AS_VAR_SET([fbn_cache], [yes])], [AS_VAR_SET([fbn_cache], [no])])
        LDFLAGS=$fbn_save_LDFLAGS
    ])
    AS_VAR_IF([fbn_cache], [yes], [AS_VAR_APPEND([$1], [" $2"])])
    AS_VAR_POPDEF([fbn_cache])
])

# FBN_CHECK_VERSION_SCRIPT: sets fbn_version_script to yes if -Wl,--version-script works.
AC_DEFUN([FBN_CHECK_VERSION_SCRIPT], [
    AC_CACHE_CHECK([for -Wl,--version-script], [fbn_cv_version_script], [
        echo 'FBN_TEST { global: main; local: *; };' > conftest.map
        fbn_save_LDFLAGS=$LDFLAGS
        LDFLAGS="$LDFLAGS -Wl,--version-script=conftest.map"
        AC_LINK_IFELSE([AC_LANG_PROGRAM()],
                       [fbn_cv_version_script=yes], [fbn_cv_version_script=no])
        LDFLAGS=$fbn_save_LDFLAGS
        rm -f conftest.map
    ])
    fbn_version_script=$fbn_cv_version_script
])

# FBN_CHECK_ISA(NAME, FLAGS, INCLUDES-AND-DECLARATIONS, BODY): sets fbn_isa_NAME to yes where a
# program of that instruction set compiles with FLAGS, and substitutes the flags as NAME_CFLAGS.
# Whether the machine can run it is asked at run time.
AC_DEFUN([FBN_CHECK_ISA], [
    AC_CACHE_CHECK([whether $CC compiles for $1], [fbn_cv_isa_$1], [
        fbn_save_CFLAGS=$CFLAGS
        CFLAGS="$CFLAGS -Werror $2"
        AC_COMPILE_IFELSE([AC_LANG_PROGRAM([$3], [$4])],
                          [fbn_cv_isa_$1=yes], [fbn_cv_isa_$1=no])
        CFLAGS=$fbn_save_CFLAGS
    ])
    fbn_isa_$1=$fbn_cv_isa_$1
    AC_SUBST(m4_toupper([$1])[_CFLAGS], ["$2"])
])
