# The file system of one machine of the lab. Sourced by init.sh and launcher.sh in a fresh mount namespace.
# DIR: this machine's directory. FS: shared | cow. COPY: paths of which it gets a private copy-on-write view.
# BIND: paths it shares with the real machine even so. Both hold one path a line.

NEWLINE='
'
overlays=0

copy_on_write() {  # a private view of the directory $1, at the same path under the new root
  overlays=$((overlays + 1))
  mkdir -p "$DIR/cow/$overlays/upper" "$DIR/cow/$overlays/work" "$NEWROOT$1"
  mount -t overlay -o "lowerdir=$1,upperdir=$DIR/cow/$overlays/upper,workdir=$DIR/cow/$overlays/work" \
    overlay "$NEWROOT$1"
}

share() {  # the directory $1 itself, at the same path under the new root
  mkdir -p "$NEWROOT$1"
  mount --bind "$1" "$NEWROOT$1"
}

build_root() {
  if [ "$FS" = cow ]; then
    mount -t tmpfs -o "mode=755,size=$COW_SIZE" cow "$DIR/cow"
    NEWROOT=$DIR/cow/root
    copy_on_write /
    mount --rbind /dev "$NEWROOT/dev"
    mount -t tmpfs -o "mode=1777,size=$TMP_SIZE" vartmp "$NEWROOT/var/tmp"
  else
    NEWROOT=$DIR/root
    mount --rbind / "$NEWROOT"
  fi
  mount -t tmpfs -o "mode=1777,size=$TMP_SIZE" tmp "$NEWROOT/tmp"
  mount -t tmpfs -o mode=755 run "$NEWROOT/run"
  mount -t proc -o nosuid,nodev,noexec proc "$NEWROOT/proc"
  mount -t sysfs -o nosuid,nodev,noexec sysfs "$NEWROOT/sys"
  IFS=$NEWLINE
  set -f
  share "$DIR"
  for path in $COPY; do copy_on_write "$path"; done
  for path in $BIND; do share "$path"; done
  unset IFS
  set +f
}

enter_root() {
  mkdir "$NEWROOT/run/old"
  cd "$NEWROOT"
  pivot_root . run/old
  cd /
  umount -l /run/old
  rmdir /run/old
}

own_file() {  # $DIR/$1 takes the place of $2, which may be a link into the now empty /run
  target=$(readlink -m "$2")
  case $FS:$target in cow:* | *:/run/*) mkdir -p "${target%/*}" && : >> "$target" ;; esac
  [ ! -e "$target" ] || mount --bind "$DIR/$1" "$target"
}

make_root() {
  build_root
  enter_root
  mount -t tmpfs -o "mode=1777,size=$SHM_SIZE" shm /dev/shm
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts /dev/pts
  mount --bind /dev/pts/ptmx /dev/ptmx
  own_file hosts /etc/hosts
  own_file hostname /etc/hostname
  own_file resolv.conf /etc/resolv.conf
  own_file bashrc /root/.bashrc
  own_file passwd /etc/passwd
  mkdir -p /run/lock /run/user /run/lab /run/sshd
}

quick_ipv6() {  # addresses are usable at once; must be set before the cable is plugged in
  for knob in accept_dad accept_ra; do
    for scope in all default; do
      [ ! -e "/proc/sys/net/ipv6/conf/$scope/$knob" ] || echo 0 > "/proc/sys/net/ipv6/conf/$scope/$knob"
    done
  done
}
