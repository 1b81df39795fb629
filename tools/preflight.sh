#!/bin/sh
# Says which system packages are missing before pip says it in a hundred lines. Usage: preflight.sh PYTHON
python=$1
missing=
why=

need() { # need PACKAGE REASON
    missing="$missing $1"
    why="$why
  $1: $2"
}

if ! command -v "$python" >/dev/null 2>&1; then
    need python3 "there is no $python (another one: make PYTHON=/path/to/python3)"
    need python3-venv "to make .venv"
    need python3-dev "for Python.h"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "fastconv needs Python 3.11 or newer; $python is $("$python" -V 2>&1). Another one: make PYTHON=python3.12" >&2
    exit 1
else
    "$python" -c 'import venv, ensurepip' 2>/dev/null || need python3-venv "to make .venv: $python has no ensurepip"
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
        need python3-dev "Python.h of $python, to compile the kernels"
fi

cc=${CC:-cc}
if ! command -v ${cc%% *} >/dev/null 2>&1; then
    need gcc "a C compiler, to compile the kernels (there is no $cc)"
    need libc6-dev "its headers"
elif ! echo '#include <stdlib.h>' | $cc -x c -fsyntax-only - 2>/dev/null; then
    need libc6-dev "the C headers: $cc finds no stdlib.h"
fi

[ -z "$missing" ] && exit 0
echo "fastconv cannot be built here. Missing:$why

On Debian and Ubuntu: sudo apt install$missing" >&2
exit 1
