#!/usr/bin/env bash
# What `make demo` runs: a server of its own on a socket of its own, and a few calls from Go.
set -euo pipefail
dir=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" 2>/dev/null; rm -rf "$dir"' EXIT

echo "== starting the server: shm-server serve"
shm-server serve --socket "$dir/sock" &
server=$!
for _ in $(seq 600); do
    shm-client ping --socket "$dir/sock" -n 1 >/dev/null 2>&1 && break
    kill -0 "$server" 2>/dev/null || { echo "the server did not start, see above" >&2; exit 1; }
    sleep 0.2
done

echo
echo "== classifying the sample pictures from Go: shm-client classify FILE..."
shm-client classify --socket "$dir/sock" "$@"

echo
echo "== 100,000 echoes of 3,072 bytes, each one's checksum verified: shm-client echo -n 100000"
shm-client echo --socket "$dir/sock" -n 100000

echo
echo "== a prompt, answered as it is generated: shm-client prompt TEXT"
shm-client prompt --socket "$dir/sock" --stats --seed 1 "KING HENRY. Now, by my sword,"

echo
echo "== stopping the server: SIGTERM"
kill "$server"
wait "$server"
