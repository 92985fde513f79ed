#!/bin/sh
# The HTTP API with nothing but curl: create a sandbox, write a file, run a command, read it back, kill it.
set -eu
api=${SANDFLARE_API_URL:-http://127.0.0.1:7878}/v1
home=${SANDFLARE_HOME:-$HOME/.local/share/sandflare}

# The key goes to curl in a file: what stands in arguments, other users of the machine can read.
settings=$(mktemp)
trap 'rm -f "$settings"' EXIT
key=${SANDFLARE_API_KEY:-$(cat "$home/api-key")}
printf 'header = "Authorization: Bearer %s"\n' "$key" >"$settings"
ask() {
    curl -fsS -K "$settings" "$@"
}

json='content-type: application/json'
created=$(ask -H "$json" -d '{"template": "agent", "size": "nano"}' "$api/sandboxes")
id=$(printf '%s' "$created" | sed 's/.*"id":"\(sbx_[0-9a-f]*\)".*/\1/')
trap 'ask -X DELETE "$api/sandboxes/$id"; rm -f "$settings"' EXIT
echo "created $id"

printf 'b\na\nc\n' |
    ask -X PUT -H 'content-type: application/octet-stream' --data-binary @- \
        "$api/sandboxes/$id/files?path=/home/agent/letters" >/dev/null

echo "events of a command, one per line (output is in base64):"
ask -N -H "$json" -d '{"argv": ["sort", "-o", "sorted", "letters"]}' "$api/sandboxes/$id/exec"

echo "the file it made:"
ask "$api/sandboxes/$id/files?path=/home/agent/sorted"
