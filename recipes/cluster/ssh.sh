#!/bin/bash
# One torchrun per host over ssh, for machines without a scheduler:
#
#   HOSTS="node1 node2" PROCESSES_PER_NODE=8 recipes/cluster/ssh.sh \
#       recipes/gpt2-1.5B.toml runs/gpt2-1.5B --data.path SHARDS
#
# Run it in the project's folder, which must be the same path on every host, as must RUN and SHARDS,
# on storage that all see; the first host must be reachable from the others. Started again, it goes
# on from the last checkpoint. Ctrl-C stops all hosts after a checkpoint.

set -euo pipefail
recipe=$1 run=$2
shift 2
read -ra hosts <<< "$HOSTS"

if [[ -f $run/recipe.toml ]]; then
    what=(train --resume "$run")
else
    what=(train "$recipe" --out "$run" "$@")
fi

id="$(basename "$run")-$(date +%s)"
command=(env TORCH_ELASTIC_SHUTDOWN_TIMEOUT=110 "${TORCHRUN:-.venv/bin/torchrun}"
    --nnodes "${#hosts[@]}" --nproc-per-node "${PROCESSES_PER_NODE:-8}" --max-restarts 3
    --rdzv-backend c10d --rdzv-endpoint "${hosts[0]}:${PORT:-29500}" --rdzv-id "$id"
    -m gpt2lab "${what[@]}")

pids=()
for host in "${hosts[@]}"; do
    ssh -n "$host" "cd $(printf %q "$PWD") && $(printf '%q ' "${command[@]}")" &
    pids+=($!)
done
stop() {
    for host in "${hosts[@]}"; do
        ssh "$host" "pkill -INT -f -- '--rdzv-id $id'" || true
    done
}
trap stop INT TERM

status=0
for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2> /dev/null; do
        wait "$pid" || status=$? # a signal ends the waiting, not the run
    done
done
exit "$status"
