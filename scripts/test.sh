#!/usr/bin/env bash
# Sets up, and checks style and types before the tests. With arguments, which go to
# pytest, only the tests run:
#
#   ./scripts/test.sh                        everything but the slow tests
#   ./scripts/test.sh -m slow                only those
#   ./scripts/test.sh tests/cli -n 0
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up dev
if [ $# -eq 0 ]; then
  "$PYTHON" -m ruff check .
  "$PYTHON" -m ruff format --check .
  if command -v node >/dev/null; then
    "$PYTHON" -m pyright
  else
    echo "Types are not checked: pyright needs Node.js, which is not installed." >&2
  fi
fi
# Compiling is most of the time, and uses one core: two workers halve it. A file's tests
# share what they compile, so one worker takes them all, the longest files first.
exec "$PYTHON" -m pytest -n 2 --dist loadfile "$@"
