#!/usr/bin/env bash
# The main job from nothing: sets up, trains a federated recommender on the embedded
# synthetic data, and prints its metrics beside rankers that learn nothing.
#
#   ./scripts/demo.sh                        the quick start
#   ./scripts/demo.sh --rounds 20 --seed 1   with other fields
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up
exec "$PYTHON" -m fedjax_rec train configs/quickstart.py "$@"
