# Sourced by the scripts beside it: goes to the repository root, and has functions that make .venv and keep it up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$PWD/.venv

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

say() {
    echo "== $*" >&2
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.10 or newer with the venv module is needed (Debian, Ubuntu: apt install python3 python3-venv python3-dev);" \
        "set PYTHON to choose one"
}

need_compiler() {
    local candidate
    for candidate in "${CXX:-}" c++ g++ clang++; do
        if [[ -n $candidate ]] && command -v "$candidate" >/dev/null; then return; fi
    done
    fail "a C++20 compiler is needed (Debian, Ubuntu: apt install g++; macOS: xcode-select --install); set CXX to choose one"
}

need_headers() {
    "$venv/bin/python" -c 'import os, sysconfig; raise SystemExit(not os.path.isfile(sysconfig.get_path("include") + "/Python.h"))' ||
        fail "Python's C headers are needed (Debian, Ubuntu: apt install python3-dev)"
}

make_venv() {
    local python
    if [[ ! -x $venv/bin/python ]]; then
        python=$(find_python)
        say "making .venv with $("$python" --version)"
        "$python" -m venv "$venv"
    fi
    export PATH=$venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
    need_compiler
    need_headers
}

# The SHA-256 of the files given, and of all files of the folders given.
fingerprint() {
    "$venv/bin/python" - "$@" <<'PY'
import hashlib
import pathlib
import sys

digest = hashlib.sha256()
for root in map(pathlib.Path, sys.argv[1:]):
    for path in sorted(p for p in (root.rglob("*") if root.is_dir() else [root]) if p.is_file() and "__pycache__" not in p.parts):
        digest.update(str(path).encode() + b"\0" + path.read_bytes())
print(digest.hexdigest())
PY
}

installed() {
    [[ -f $venv/.octavo && $(<"$venv/.octavo") == "$1" ]]
}

# Installs the package as a user would. A development install of the same sources will do too.
install_package() {
    local native whole
    make_venv
    native=$(fingerprint pyproject.toml CMakeLists.txt native)
    whole=$(fingerprint pyproject.toml CMakeLists.txt native src)
    if installed "development $native" || installed "package $whole"; then return; fi
    say "building and installing octavo (about two minutes the first time)"
    rm -f "$venv/.octavo"
    "$venv/bin/python" -m pip install --quiet ".[server]"
    echo "package $whole" >"$venv/.octavo"
}

# Installs what development needs, and the package so that Python sources are used from where they are. Only a change of the
# native sources (or of pyproject.toml) makes it build again, and then only what changed.
install_development() {
    local native
    make_venv
    native=$(fingerprint pyproject.toml CMakeLists.txt native)
    if installed "development $native"; then return; fi
    say "building octavo and installing what development needs (about two minutes the first time)"
    rm -f "$venv/.octavo"
    "$venv/bin/python" -m pip install --quiet 'scikit-build-core>=0.10' 'nanobind>=2.4' 'cmake>=3.20' ninja
    "$venv/bin/python" -m pip install --quiet --no-build-isolation --editable '.[dev]'
    echo "development $native" >"$venv/.octavo"
}
