#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# "make installcheck": compiles tests/installcheck.c with what pkg-config says about the installed
# library, shared and static as far as installed, and runs it; lets each kind find the installed CUDA
# module; then asks the installed command for its version. The Makefile sets the variables.

set -eu
: "${srcdir:?}" "${libdir:?}" "${pkglibdir:?}" "${includedir:?}" "${bindir:?}" "${version:?}"
: "${CC:=cc}" "${CFLAGS=}" "${LDFLAGS=}" "${PKG_CONFIG:=pkg-config}" "${DESTDIR=}"
work=installcheck.tmp
rm -rf "$work"
mkdir "$work"
trap 'rm -rf "$work"' EXIT

# Under DESTDIR the files are not yet where fusedbn.pc says.
if [ -n "$DESTDIR" ]; then
    sed -e "s|^libdir=.*|libdir=$DESTDIR$libdir|" \
        -e "s|^includedir=.*|includedir=$DESTDIR$includedir|" \
        "$DESTDIR$libdir/pkgconfig/fusedbn.pc" >"$work/fusedbn.pc"
    modules=$work
else
    modules=$libdir/pkgconfig
fi
PKG_CONFIG_PATH=$modules${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
LD_LIBRARY_PATH=$(cd "$DESTDIR$libdir" && pwd)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export PKG_CONFIG_PATH LD_LIBRARY_PATH

found=$($PKG_CONFIG --modversion fusedbn)
if [ "$found" != "$version" ]; then
    echo "installcheck: fusedbn.pc says version $found, not $version" >&2
    exit 1
fi

# build NAME LIBS: compiles and runs the program, which itself uses the mathematics library.
build()
{
    # shellcheck disable=SC2046,SC2086 # flags are lists of words
    $CC $CFLAGS $($PKG_CONFIG --cflags fusedbn) $LDFLAGS -o "$work/$1" \
        "$srcdir/tests/installcheck.c" $2 -lm
    "$work/$1"
    echo "installcheck: $1 ok"
}

# A driver that finds no device (tests/loader_driver.c): what says so is the module, opened.
module=$DESTDIR$pkglibdir/fusedbn-cuda.so
if [ -e "$module" ]; then
    # shellcheck disable=SC2086 # CC may be several words
    $CC -shared -fPIC -I"$srcdir/include" -Wl,-soname,libcuda.so.1 -o "$work/libcuda.so.1" \
        "$srcdir/tests/loader_driver.c"
    reason="there is no CUDA device"
else
    reason="the CUDA module is not installed"
fi

# ask_for_cuda NAME [MODULE]: what the program says of CUDA is $reason.
ask_for_cuda()
{
    said=$(LD_LIBRARY_PATH=$PWD/$work:$LD_LIBRARY_PATH TEST_DRIVER_INIT=100 \
        FUSEDBN_CUDA_MODULE=${2-} "$work/$1" cuda)
    case $said in
    "$reason"*) echo "installcheck: $1: $said" ;;
    *)
        echo "installcheck: $1 says of CUDA: \"$said\", not \"$reason\"" >&2
        exit 1
        ;;
    esac
}

kinds=0
if [ -e "$DESTDIR$libdir/libfusedbn.so" ]; then
    build shared "$($PKG_CONFIG --libs fusedbn)"
    ask_for_cuda shared
    kinds=$((kinds + 1))
fi
if [ -e "$DESTDIR$libdir/libfusedbn.a" ]; then
    build static "$($PKG_CONFIG --static --libs fusedbn | sed 's/-lfusedbn/-l:libfusedbn.a/')"
    # A program with the static library has no directory to look beside; it knows where the module
    # is to be installed, and where a variable says.
    if [ -n "$DESTDIR" ] && [ -e "$module" ]; then
        ask_for_cuda static "$(cd "$(dirname "$module")" && pwd)/fusedbn-cuda.so"
    else
        ask_for_cuda static
    fi
    kinds=$((kinds + 1))
fi
if [ "$kinds" -eq 0 ]; then
    echo "installcheck: no library in $DESTDIR$libdir" >&2
    exit 1
fi

if [ -n "${command:-}" ]; then
    said=$("$DESTDIR$bindir/$command" --version)
    case $said in
    *"$version"*) echo "installcheck: $said" ;;
    *)
        echo "installcheck: $command --version says '$said', not $version" >&2
        exit 1
        ;;
    esac
fi
