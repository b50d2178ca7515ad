#!/bin/sh
# Runs the command line that it is given, and says by its exit code where a program is missing (60) or fails (62); what
# a failing program wrote to its standard error goes to standard output, where the caller reads it.
command -v "$1" >/dev/null 2>&1 || exit 60
log=$(mktemp "${TMPDIR:-/tmp}/secateurs.XXXXXX") || exit 64
trap 'rm -f "$log"' EXIT
trap 'exit 129' HUP INT TERM
"$@" 2>"$log"
code=$?
[ "$code" -eq 0 ] && exit 0
tail -c 65536 "$log"
case "$code" in
60 | 61 | 63 | 64) exit "$code" ;;
esac
echo "ended with code $code"
exit 62
