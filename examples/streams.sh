#!/bin/sh
# Output and error streams apart, exit codes, environment, a time limit.
set -u

echo "streams stay apart, and the exit code is the command's:"
sandflare run -- sh -c 'echo to-output; echo to-error >&2; exit 7' 2>errors.txt
echo "exit code $?, and on the error stream: $(cat errors.txt)"
rm -f errors.txt

echo "environment and working directory:"
# shellcheck disable=SC2016 # for the shell in the sandbox
sandflare run -e GREETING=hello -w /tmp -- sh -c 'echo "$GREETING from $PWD"'

echo "a time limit keeps what was printed:"
sandflare run --timeout 2s -- sh -c 'echo started; sleep 60; echo never'
echo "exit code $? (124: the time was up)"
