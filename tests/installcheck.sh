#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# "make installcheck": compiles tests/installcheck.c with what pkg-config says about the installed
# library, shared and static as far as installed, and runs it; then asks the installed command for
# its version. The Makefile sets the variables.

set -eu
: "${srcdir:?}" "${libdir:?}" "${includedir:?}" "${bindir:?}" "${version:?}"
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
LD_LIBRARY_PATH=$DESTDIR$libdir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
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

kinds=0
if [ -e "$DESTDIR$libdir/libfusedbn.so" ]; then
    build shared "$($PKG_CONFIG --libs fusedbn)"
    kinds=$((kinds + 1))
fi
if [ -e "$DESTDIR$libdir/libfusedbn.a" ]; then
    build static "$($PKG_CONFIG --static --libs fusedbn | sed 's/-lfusedbn/-l:libfusedbn.a/')"
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
