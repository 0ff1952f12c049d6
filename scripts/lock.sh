#!/usr/bin/env bash
# Resolves pyproject.toml into constraints.txt. Run it to move to newer versions, then `make setup test demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}"
[ -n "$UV_FIND_LINKS" ] || unset UV_FIND_LINKS
resolved=$(mktemp); trap 'rm -f "$resolved"' EXIT
.venv/bin/uv pip compile --quiet --python-version 3.11 --no-header --no-annotate --no-emit-find-links \
  --group dev --output-file "$resolved" pyproject.toml
{
  grep '^#' constraints.txt
  # The local part of a version says which build of torch it is; triton is the business of that build.
  sed -E 's/^(torch==[0-9.]+)\+.*/\1/; /^triton==/d; /^llama-cpp-python==/d' "$resolved"
} > constraints.txt.new
mv constraints.txt.new constraints.txt
