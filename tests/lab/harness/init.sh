#!/bin/sh
# PID 1 of one host, started in fresh namespaces by host.py.
# stdin: "go" once the cable is plugged in; afterwards it is the lifeline: at its end the host powers off.
# stdout: "pid N" (as seen by the real machine), then "ready".
set -e
read -r outer_pid rest < /proc/self/stat  # before the host's own /proc hides it
exec 3<&0 < /dev/null
. "$HARNESS/root.sh"

hostname "$NAME"
ulimit -c 0
make_root
quick_ipv6
echo "pid $outer_pid"

read -r line <&3
ip -batch "$DIR/network"
"$SSHD" -t -f "$DIR/sshd_config"           # so that a mistake in it is known at once
"$SSHD" -D -f "$DIR/sshd_config" -E "$DIR/sshd.log" 3<&- > /dev/null 2>&1 &
echo $! > /run/lab/sshd.pid
echo ready
exec > /dev/null

trap 'exit 0' TERM
set +e
while :; do  # again, in case something in the host killed the reader; waiting also reaps adopted orphans
  (read -r line <&3; kill -TERM 1) &
  echo $! > /run/lab/lifeline.pid
  wait $!
done
