#!/bin/sh
# Installs the Debian packages that the lab tests need. Run by `make test`; quick when all are there.
#
# It never fails: on a machine where it may not install anything it says what will be left out, and the tests go on.
# TRX_APT=no forbids it to install anything.

packages="openssh-server nftables iptables iproute2 iputils-ping netcat-openbsd fish tcsh
          munge slurm-wlm slurmctld slurmd slurm-client"

left_out() {
    echo "setup: $1"
    echo "setup: the lab tests that need them will be left out, and named at the end"
    exit 0
}

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    left_out "not a Debian machine, so these are not installed here:" $packages

missing=""
for package in $packages; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

[ "$TRX_APT" != no ] || left_out "TRX_APT=no, so these stay missing:$missing"
[ "$(id -u)" = 0 ] || left_out "not root, so these stay missing (as root: apt-get install$missing):$missing"

# No service may start because of the tests: while packages are installed, a policy forbids it.
policy=/usr/sbin/policy-rc.d
saved=$policy.before-trx

restore() {
    rm -f "$policy"
    [ ! -e "$saved" ] || mv "$saved" "$policy"
}
[ -e "$saved" ] || [ ! -e "$policy" ] || mv "$policy" "$saved"
trap restore EXIT
trap 'exit 1' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

echo "setup: installing$missing"
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update && apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=300 $missing; } \
    </dev/null >"$log" 2>&1; then
    tail -n 20 "$log"
    rm -f "$log"
    left_out "apt-get failed (its last lines are above), so these stay missing:$missing"
fi
rm -f "$log"
