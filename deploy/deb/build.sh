#!/bin/sh
# Makes warpline_VERSION_ARCH.deb from a wheel: the same environment, units and settings as install.sh, libraries included, for
# the Python of this Debian or Ubuntu. Called by anybody with root or fakeroot: build.sh WHEEL [FOLDER]
set -eu
umask 022
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] && [ -f "$1" ] || { echo 'usage: build.sh WHEEL [FOLDER]' >&2 && exit 64; }
wheel=$1 folder=${2:-.}
mkdir -p "$folder"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

python=/usr/bin/python3
version=$(basename "$wheel" | cut -d - -f 2)
minor=$("$python" -c 'import sys; print(sys.version_info.minor)')
architecture=$(dpkg --print-architecture)

sh "$here/../install.sh" install --wheel "$wheel" --python "$python" --root "$stage" --library /usr/lib >/dev/null
rm -rf "${stage:?}/var" "$stage"/etc/passwd* "$stage"/etc/group* "$stage"/etc/shadow* "$stage"/etc/gshadow* "$stage/etc/.pwd.lock"
rm -rf "$stage/etc/warpline/tls" "$stage/etc/warpline/pki" # systemd-tmpfiles makes them
for each in preinst postinst prerm postrm; do install -D -m 755 "$here/$each" "$stage/DEBIAN/$each"; done
(cd "$stage" && find etc -type f | sed 's|^|/|' | sort) >"$stage/DEBIAN/conffiles"
cat >"$stage/DEBIAN/control" <<END
Package: warpline
Version: $version
Architecture: $architecture
Maintainer: warpline maintainers <maintainers@localhost>
Installed-Size: $(du -sk "$stage" | cut -f 1)
Depends: python3 (>= 3.$minor), python3 (<< 3.$((minor + 1))), systemd
Section: admin
Priority: optional
Homepage: https://pypi.org/project/warpline/
Description: always-on GPU tracing and diagnosis
 Agent, collector and terminal screen. Which GPU, rank, link or host costs time or power, since when, and what to do.
 .
 Services are installed disabled: systemctl enable --now warpline-agent (or warpline-collector).
END
dpkg-deb --root-owner-group -Zxz -z3 --build "$stage" "$folder/warpline_${version}_$architecture.deb"
