#!/bin/sh
# Makes a bootable lab host out of a fresh root file system. $1 is that root.
set -eu
root=$1

# The build machine's name and resolver would leak in, and fact gathering would wait for them.
rm -f "$root/etc/hostname" "$root/etc/resolv.conf" "$root"/etc/ssh/ssh_host_*
: >"$root/etc/resolv.conf"
: >"$root/etc/machine-id"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
# Hosts of the lab have no package index.
rm -rf "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/* "$root"/etc/apt/apt.conf.d/99mmdebstrap
echo 'LANG=C.UTF-8' >"$root/etc/default/locale"

mkdir -p "$root/etc/ssh/sshd_config.d" "$root/etc/systemd/journald.conf.d"
# Tests run dozens of commands over one connection; the defaults allow ten.
printf 'MaxSessions 200\nMaxStartups 200\nUseDNS no\n' >"$root/etc/ssh/sshd_config.d/lab.conf"
printf '[Journal]\nSystemMaxUse=64M\nRateLimitIntervalSec=0\n' \
  >"$root/etc/systemd/journald.conf.d/lab.conf"

# Resource limits of units need writable v1 controllers; nspawn mounts them read-only.
cat >"$root/usr/local/sbin/lab-init" <<'INIT'
#!/bin/sh
for controller in memory cpu cpuacct blkio pids; do
  [ ! -d /sys/fs/cgroup/$controller ] || mount -o remount,bind,rw /sys/fs/cgroup/$controller
done
exec /lib/systemd/systemd "$@"
INIT
chmod 0755 "$root/usr/local/sbin/lab-init"

chroot "$root" systemctl --quiet mask \
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
  console-getty.service getty.target e2scrub_reap.service systemd-firstboot.service
chroot "$root" systemctl --quiet enable ssh.service
