# Sourced by demo.sh and test.sh: sets up .venv and leaves its interpreter in $PYTHON.
#
#   set_up GROUP...   packages of the project, of the extra `analysis`, and of the
#                     dependency groups named
#
# With uv the committed uv.lock decides every version; without it pip resolves anew.
# shellcheck shell=bash

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root" || exit 1

# The interpreter to build .venv from: the first of 3.11 or later.
find_python() {
  local name
  for name in "${FEDJAX_REC_PYTHON:-}" python3 python3.12 python3.13 python3.11 python; do
    [ -n "$name" ] || continue
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  return 1
}

set_up() {
  local base group groups=()
  PYTHON="$root/.venv/bin/python"
  base="$(find_python || true)"
  if command -v uv >/dev/null; then
    for group in "$@"; do groups+=(--group "$group"); done
    # --inexact: the demo does not remove what the tests installed. Without a suitable
    # interpreter uv fetches one.
    uv sync --quiet --frozen --inexact --no-default-groups --extra analysis \
      ${groups[@]+"${groups[@]}"} ${base:+--python "$base"}
    return
  fi
  if [ -z "$base" ]; then
    echo "Python 3.11 or later is needed, and none was found (found: $(python3 -V 2>&1))." >&2
    echo "Install one, set FEDJAX_REC_PYTHON to it, or install uv, which fetches its own." >&2
    exit 1
  fi
  set_up_with_pip "$base" "$@"
}

set_up_with_pip() {
  local base="$1" group stamp groups=()
  shift
  for group in "$@"; do groups+=(--group "$group"); done
  # Installed already, from this pyproject.toml? Then there is nothing to do.
  stamp="$root/.venv/.fedjax_rec-$(IFS=-; echo "analysis${*:+-$*}")"
  if cmp -s pyproject.toml "$stamp" && "$PYTHON" -c 'import fedjax_rec' 2>/dev/null; then
    return
  fi
  echo "Setting up .venv with pip (a minute or two the first time)" >&2
  if ! "$PYTHON" -c '' 2>/dev/null; then
    rm -rf .venv
    "$base" -m venv .venv || {
      echo "$base cannot make virtual environments: install its venv module (Debian:" >&2
      echo "apt-get install python3-venv), or uv." >&2
      exit 1
    }
  fi
  # One made by uv holds no pip.
  "$PYTHON" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m ensurepip --upgrade >/dev/null
  # Dependency groups came with pip 25.1.
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-compile \
    --editable '.[analysis]' ${groups[@]+"${groups[@]}"}
  cp pyproject.toml "$stamp"
}
