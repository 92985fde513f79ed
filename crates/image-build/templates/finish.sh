#!/bin/sh
# Last step of a root image, run outside of it with its directory as $1: makes it one that can be cloned (no
# identity), that has its user, and that comes out the same from the same packages.
set -eu
umask 022
root=$1

# The user programs run as. The machine around it is the boundary, so inside it may become root.
chroot "$root" useradd --create-home --uid 1000 --user-group --shell /bin/bash agent
if [ -d "$root/etc/sudoers.d" ]; then
    echo 'agent ALL=(ALL:ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/agent"
    chmod 0440 "$root/etc/sudoers.d/agent"
fi

# No identity, and nothing of the machine this is built on.
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root"/etc/ssh/ssh_host_* \
    "$root/etc/hostname" "$root/etc/hosts" "$root/etc/resolv.conf"
echo sandbox >"$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\tsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
cat >"$root/etc/apt/sources.list" <<END
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $SANDFLARE_SUITE main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $SANDFLARE_SUITE-updates main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security $SANDFLARE_SUITE-security main
END

# shellcheck disable=SC2016 # dpkg-query fills these in
chroot "$root" dpkg-query --show --showformat '${Package}\t${Version}\n' >"$SANDFLARE_PACKAGES"

if [ -x "$root/usr/bin/python3" ]; then
    # A sandbox is thrown away, so pip may install beside Debian's packages.
    printf '[global]\nbreak-system-packages = true\ndisable-pip-version-check = true\n' >"$root/etc/pip.conf"
fi
if [ -d "$root/usr/lib/python3/dist-packages/matplotlib" ]; then
    # Finding the fonts takes seconds; done here once. The order of a Python set depends on the seed.
    chroot "$root" setpriv --reuid=1000 --regid=1000 --clear-groups \
        env -i HOME=/home/agent PATH=/usr/bin:/bin LANG=C.UTF-8 PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 \
        python3 -c 'import matplotlib.pyplot'
fi

# What differs from build to build.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/*-old \
    "$root"/var/lib/dpkg/*-old "$root"/var/cache/ldconfig/aux-cache "$root"/tmp/* "$root"/var/tmp/* \
    "$root"/etc/passwd- "$root"/etc/group- "$root"/etc/shadow- "$root"/etc/gshadow- \
    "$root"/etc/subuid- "$root"/etc/subgid- "$root"/etc/apt/apt.conf.d/99mmdebstrap
find "$root/var/log" -type f -delete
settle_times() {
    find "$@" -xdev \( -path "$root/proc" -o -path "$root/sys" -o -path "$root/dev" \) -prune -o \
        -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}
settle_times "$root"

if [ -x "$root/usr/bin/python3" ]; then
    # Compiled files carry the time of their source, which has just been set.
    chroot "$root" env -i HOME=/root PATH=/usr/bin:/bin LANG=C.UTF-8 PYTHONHASHSEED=0 \
        python3 -m compileall -q -f --invalidation-mode timestamp /usr/lib/python3 /usr/lib/python3.* ||
        true # a package may carry files of another Python version that do not compile
    settle_times "$root/usr/lib"
fi
