# Starts the process of one rank: rank.sh RANK FOLDER PROGRAM ARGUMENT...
# The first line of standard input is the ring's host file, each later one the name of a signal. Its end, by whatever ended
# the launcher or cut the connection, kills the process.
IFS= read -r hosts || exit 2
rank=$1
cd -- "$2" || exit 2
shift 2
file=$(mktemp) || exit 2
printf '%s\n' "$hosts" >"$file"
exec 3<&0
MLX_RANK=$rank MLX_HOSTFILE=$file "$@" </dev/null 3<&- &
process=$!
{
    while read -r name; do kill -s "$name" "$process"; done
    kill -s KILL "$process"
} <&3 3<&- 2>/dev/null &
listener=$!
wait "$process"
code=$?
kill -s KILL "$listener" 2>/dev/null
rm -f "$file"
exit "$code"
