#!/bin/sh
# The HTTP API with nothing but curl: create a sandbox, write a file, run a command, read it back, kill it.
set -eu
api=${SANDFLARE_API_URL:-http://127.0.0.1:7878}/v1

json='content-type: application/json'
created=$(curl -fsS -H "$json" -d '{"template": "agent", "size": "nano"}' "$api/sandboxes")
id=$(printf '%s' "$created" | sed 's/.*"id":"\(sbx_[0-9a-f]*\)".*/\1/')
trap 'curl -fsS -X DELETE "$api/sandboxes/$id"' EXIT
echo "created $id"

printf 'b\na\nc\n' |
    curl -fsS -X PUT -H 'content-type: application/octet-stream' --data-binary @- \
        "$api/sandboxes/$id/files?path=/home/agent/letters" >/dev/null

echo "events of a command, one per line (output is in base64):"
curl -fsS -N -H "$json" -d '{"argv": ["sort", "-o", "sorted", "letters"]}' "$api/sandboxes/$id/exec"

echo "the file it made:"
curl -fsS "$api/sandboxes/$id/files?path=/home/agent/sorted"
