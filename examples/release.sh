#!/bin/sh
# A release without GitHub: prunes for each target, verifies, signs and packages. Run it at the root of your workspace.
#
#   examples/release.sh rpi5 jetson
#
# A target that fails leaves the others alone; the exit code is the greatest (docs/commands.md says what each means).
# What can be set in the environment:
#
#   KEY, PASSWORD_FILE   secret key that signs, as `minisign -G` writes it, and the file with its password
#   PUBLIC               its public half: file or base64
#   LAST                 folder with the bundles of the last release: the new ones may not be worse
#   MAX_SLOWER, MAX_MAP_DROP   by how much they may be all the same
#   DIST, OUT            where the bundles are made, and where their archives go
#   STEPS                which steps: "prune verify sign package"; the machine with the key may do only the last two
#   SECATEURS            the command: `cargo secateurs`, `cargo xtask`
set -u
SECATEURS=${SECATEURS:-cargo secateurs}
STEPS=${STEPS:-prune verify sign package}
DIST=${DIST:-dist}
OUT=${OUT:-release}
LAST=${LAST:-last-release}
MAX_SLOWER=${MAX_SLOWER:-2%}
MAX_MAP_DROP=${MAX_MAP_DROP:-0.005}

if [ $# -eq 0 ]; then
    echo "usage: $0 TARGET..." >&2
    exit 2
fi

has() {
    case " $STEPS " in
    *" $1 "*) return 0 ;;
    *) return 1 ;;
    esac
}

# The command may have several words.
secateurs() {
    # shellcheck disable=SC2086
    $SECATEURS "$@"
}

release() {
    target=$1
    bundle=$DIST/$target
    # Applies the plan that was reviewed in secateurs.lock, on the board itself or not at all.
    if has prune; then
        secateurs prune --target "$target" --locked --require-device --out "$bundle" || return
    fi
    # Every byte, the lock, the budgets; and no worse than what is out there.
    if has verify; then
        set -- "$bundle"
        if [ -d "$LAST/$target" ]; then
            set -- "$@" --against "$LAST/$target" --max-slower "$MAX_SLOWER" --max-map-drop "$MAX_MAP_DROP"
        fi
        secateurs verify "$@" || return
    fi
    if has sign; then
        set -- "$bundle" --key "${KEY:?names no secret key}"
        if [ -n "${PASSWORD_FILE:-}" ]; then
            set -- "$@" --password-file "$PASSWORD_FILE"
        fi
        secateurs sign "$@" || return
        secateurs verify "$bundle" --key "${PUBLIC:?names no public key}" || return
    fi
    if has package; then
        # Names that begin with a dot are of this machine: caches and locks.
        mkdir -p "$OUT" || return
        tar -czf "$OUT/$target.tar.gz" --exclude='.*' -C "$DIST" "$target" || return
        echo "$OUT/$target.tar.gz"
    fi
}

worst=0
for name in "$@"; do
    code=0
    (release "$name") || code=$?
    if [ "$code" -ne 0 ]; then
        echo "$name: failed with exit code $code" >&2
    fi
    if [ "$code" -gt "$worst" ]; then
        worst=$code
    fi
done
exit "$worst"
