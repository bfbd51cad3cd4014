#!/bin/sh
# Keeps the namespaces of the launcher host, started by launcher.py.
# stdin: "go" once the cable is plugged in; afterwards it is the lifeline: at its end all processes here are killed.
# stdout: "ready" for the cable, then "ready" for use.
set -e
. "$HARNESS/root.sh"

hostname "$NAME"
make_root
quick_ipv6
echo ready
read -r line
ip -batch "$DIR/network"
echo ready

set +e
read -r line
here=$(readlink /proc/$$/ns/mnt)
here="mnt:\\[${here#*[}"                   # as a pattern for find, whose brackets are literal
here="${here%]}\\]"
round=0
while [ $round -lt 5 ]; do                 # again, in case one of them was forking
  round=$((round + 1))
  for link in $(find /proc/[0-9]*/ns/mnt -lname "$here" 2> /dev/null); do
    pid=${link#/proc/}
    pid=${pid%/ns/mnt}
    [ "$pid" = $$ ] || kill -KILL "$pid" 2> /dev/null
  done
done
