# Becomes the process of one rank: rank.sh RANK FOLDER PROGRAM ARGUMENT...
# The first line of standard input is the ring's host file, each later one the name of a signal, or ENDED when the process
# has ended. The input's own end, by whatever ended the launcher or cut the connection, kills the process.
IFS= read -r hosts || exit 2
cd -- "$2" || exit 2
file=$(mktemp "${TMPDIR:-/tmp}/diagnose-hosts.XXXXXX") || exit 2
printf '%s\n' "$hosts" >"$file"
export MLX_RANK="$1" MLX_HOSTFILE="$file"
shift 2
exec 3<&0 </dev/null
process=$$
{
    while read -r name && [ "$name" != ENDED ]; do kill -s "$name" "$process"; done
    [ "$name" = ENDED ] || kill -s KILL "$process"
    rm -f "$file"
} <&3 3<&- >/dev/null 2>&1 &
exec "$@" 3<&-
