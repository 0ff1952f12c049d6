#!/usr/bin/env bash
# Makes .venv ready: pinned packages, llama-cpp-python from its source distribution, and from that same source
# llama.cpp's converter and a program around its template engine (llama_template.cpp). `make` calls it when one of its
# inputs is newer than .venv/.ready. Needs Python 3.11-3.13 with venv and a C/C++ compiler; needs no network once it has
# run.
#   PYTHON=python3.12        the interpreter to use
#   TORCH_BACKEND=cu128      uv's --torch-backend (default: auto; none when pip or uv is given a find-links folder)
#   XDG_CACHE_HOME           where the built wheel is kept for the next clone (default: ~/.cache)
set -euo pipefail
shopt -s inherit_errexit  # or a failure inside $(...) would go unseen
cd "$(dirname "$0")/.."

LLAMA_VERSION=0.3.36
LLAMA_SHA256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
# Quantizes eight groups of weights at once, to the same bytes: docs/export.md.
LLAMA_PATCH="$PWD/scripts/ggml-quants-lanes.patch"
TEMPLATE_SOURCE="$PWD/scripts/llama_template.cpp"
VENV="$PWD/.venv"
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/ft_pipeline"

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if command -v "$candidate" >/dev/null &&
       "$candidate" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      printf '%s\n' "$candidate"; return
    fi
  done
  fail "no Python 3.11, 3.12 or 3.13 found (tried: ${PYTHON:-python3.11 python3.12 python3.13 python3}). Install one, or name it: make setup PYTHON=/path/to/python3"
}

has_cuda_toolkit() { command -v nvcc >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

install_packages() {  # $1: the folder with the llama-cpp-python wheel
  # uv does not read pip's settings, and its own variable gives way to the option: a machine that brings its own build
  # of torch for pip must bring it here too.
  local links=(--find-links "$1") link
  for link in ${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}; do links+=(--find-links "$link"); done
  local backend="${TORCH_BACKEND:-}"
  if [ -z "$backend" ] && [ "${#links[@]}" -eq 2 ]; then backend=auto; fi
  "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" ${backend:+--torch-backend="$backend"} \
    --compile-bytecode --reinstall-package llama-cpp-python --constraint constraints.txt "${links[@]}" --editable . --group dev
}

# The wheel is built for this machine's processor, so the key of its cache says which one.
llama_cache_key() {
  { printf '%s\n' "$LLAMA_SHA256" "$1"; cat "$LLAMA_PATCH"; uname -sm; grep -m1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null || true; } |
    sha256sum | cut -c1-16
}

require_compiler() {
  command -v c++ >/dev/null || fail "no C++ compiler (c++) found. Install one, e.g.: apt-get install build-essential"
}

fetch_source() {  # $1: where to; prints llama.cpp's tree in the source distribution. Fetched once, whoever needs it
  local sdist="$1/llama_cpp_python-$LLAMA_VERSION.tar.gz" source="$1/llama_cpp_python-$LLAMA_VERSION/vendor/llama.cpp"
  if [ ! -d "$source" ]; then
    "$VENV/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
      --dest "$1" "llama-cpp-python==$LLAMA_VERSION" >&2
    printf '%s  %s\n' "$LLAMA_SHA256" "$sdist" | sha256sum --check --quiet >&2 ||
      fail "the source distribution of llama-cpp-python $LLAMA_VERSION is not the one that was tested. Do not build it."
    tar -xzf "$sdist" -C "$1"
  fi
  printf '%s\n' "$source"
}

build_llama() {  # $1: folder for what is in the making; prints the folder that holds the wheel and llama.cpp's converter
  local flags="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF"
  if has_cuda_toolkit; then flags="$flags -DGGML_CUDA=ON"; fi
  local kept source work=$1
  kept="$CACHE/llama-cpp-python-$LLAMA_VERSION-$(llama_cache_key "$flags")"
  if [ ! -d "$kept" ]; then
    require_compiler
    source=$(fetch_source "$work")
    (cd "$source" && GIT_CEILING_DIRECTORIES="$source/.." git apply "$LLAMA_PATCH") ||
      fail "the patch $LLAMA_PATCH does not fit llama.cpp's source"
    say "building llama-cpp-python $LLAMA_VERSION from source, once on this machine (about 4 minutes on 2 cores)"
    CMAKE_ARGS="$flags ${CMAKE_ARGS:-}" CMAKE_BUILD_PARALLEL_LEVEL="$(nproc)" \
      "$VENV/bin/uv" build --quiet --wheel --python "$VENV/bin/python" --out-dir "$work/out" "${source%/vendor/*}" ||
      fail "llama-cpp-python did not build; the compiler's own message is above"
    mkdir "$work/out/llama.cpp"
    cp -r "$source"/{convert_hf_to_gguf.py,convert_lora_to_gguf.py,conversion,gguf-py,LICENSE} "$work/out/llama.cpp/"
    printf '%s\n' "$LLAMA_VERSION" > "$work/out/llama.cpp/LLAMA_CPP_PYTHON_VERSION"
    mv -T "$work/out" "$kept" 2>/dev/null || [ -d "$kept" ] || fail "could not write $kept"
  fi
  printf '%s\n' "$kept"
}

# Apart from the wheel, so that a change of the program does not build llama.cpp anew.
template_cache_key() {
  { printf '%s\n' "$LLAMA_SHA256"; cat "$TEMPLATE_SOURCE"; uname -sm; } | sha256sum | cut -c1-16
}

build_template() {  # $1: folder for what is in the making; prints the template engine's path
  local kept source work=$1
  kept="$CACHE/llama-template-$LLAMA_VERSION-$(template_cache_key)"
  if [ ! -f "$kept" ]; then
    require_compiler
    source=$(fetch_source "$work")
    say "building llama.cpp's template engine (about 15 seconds on 2 cores)"
    mkdir "$work/template"
    (cd "$work/template" &&
      printf '%s\0' "$TEMPLATE_SOURCE" "$source"/common/{json,unicode}.cpp "$source"/common/jinja/*.cpp |
        xargs -0 -n 1 -P "$(nproc)" c++ -std=c++17 -O1 -w -c "-DLLAMA_CPP_PYTHON_VERSION=\"$LLAMA_VERSION\"" \
          -I "$source/common" -I "$source/ggml/include" -I "$source/vendor" &&
      c++ ./*.o -o "$work/llama-template") ||
      fail "llama.cpp's template engine did not build; the compiler's own message is above"
    mv -T "$work/llama-template" "$kept"
  fi
  printf '%s\n' "$kept"
}

install_converter() {  # $1: the folder that holds it; $2: the template engine
  local target="$VENV/share/ft_pipeline/llama.cpp"
  mkdir -p "${target%/*}"
  rm -rf "$target"
  cp -r "$1/llama.cpp" "$target"
  cp "$2" "$target/llama-template"
}

python=$(find_python)
say "using $("$python" --version) in .venv"
"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$VENV" ||
  fail "could not make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "uv==0.13.9"
mkdir -p "$CACHE"
work=$(mktemp -d "$CACHE/.build.XXXXXX"); trap 'rm -rf "$work"' EXIT
llama=$(build_llama "$work")
template=$(build_template "$work")
rm -rf "$work"
say "installing the pinned packages"
install_packages "$llama"
install_converter "$llama" "$template"
touch "$VENV/.ready"
say "ready"
