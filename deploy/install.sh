#!/bin/sh
# Installs, upgrades, takes back and removes warpline on one machine, or below a directory that will be one (--root).
#
# The program is a Python environment in /opt/warpline; the one before it stays in /opt/warpline.old. A version that does not
# run, does not read the settings or does not start is taken back. Settings in /etc and data in /var are never touched by an
# upgrade, and removed by `uninstall --purge` alone.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
prefix=/opt/warpline
units='warpline-collector warpline-agent warpline-power-guard'
users='warpline warpline-collector'
settle_seconds=2 # a service that said it works and ends at once is seen to have ended after this

root='' wheel='' version='' role=all python='' collector='' purge='' library=/usr/local/lib

usage() {
    cat <<'END'
usage: install.sh install [options]     install, or upgrade what is installed; services that run are started anew
       install.sh rollback [options]    go back to the version before
       install.sh uninstall [--purge]   remove; settings and data stay without --purge

  --wheel FILE      install this wheel; without it the checkout that this script lies in
  --version V       this version, from the package index
  --role ROLE       agent, collector, or all (also the terminal screen): which libraries are needed; all
  --collector ADDR  where the agent sends, host:port or unix:PATH; written into new settings only
  --python PATH     Python 3.11 or later; python3
  --root DIR        work below DIR, and start nothing
  --library DIR     where units and lists of users and directories go; /usr/local/lib (completions and pages of man: share beside it)

Without --root it has to be called by root. pip reads its own settings (PIP_INDEX_URL, PIP_FIND_LINKS, PIP_NO_INDEX).
END
}

say() { printf 'warpline: %s\n' "$1"; }

refuse() { # SENTENCE HINT [EXIT]
    printf 'warpline: %s\n  -> %s\n' "$1" "$2" >&2
    exit "${3:-1}"
}

options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --purge) purge=yes && shift && continue ;;
            --help | -h) usage && exit 0 ;;
        esac
        [ $# -ge 2 ] || refuse "$1 is unknown, or wants a value" 'see install.sh --help' 64
        case $1 in
            --wheel) wheel=$2 ;;
            --version) version=$2 ;;
            --role) role=$2 ;;
            --collector) collector=$2 ;;
            --python) python=$2 ;;
            --root) root=$(cd "$2" && pwd) || exit 64 ;;
            --library) library=$2 ;;
            *) refuse "there is no option $1" 'see install.sh --help' 64 ;;
        esac
        shift 2
    done
    case $role in
        agent) extra=agent ;;
        collector) extra=collector,tui ;;
        all) extra=all ;;
        *) refuse "there is no role $role" 'agent, collector or all' 64 ;;
    esac
    [ -z "$wheel" ] || [ -f "$wheel" ] || refuse "there is no file $wheel" 'python3 -m build --wheel makes one' 64
    [ "$root" != / ] || root=''
    [ -n "$root" ] || [ "$(id -u)" = 0 ] || refuse 'this changes the machine, and takes root' 'sudo, or --root DIR'
    [ -n "$root" ] || [ ! -e /var/lib/dpkg/info/warpline.postinst ] ||
        refuse 'the Debian package is installed' 'apt install ./warpline_VERSION_ARCH.deb, apt remove or apt purge warpline'
    now=$root$prefix new=$root$prefix.new old=$root$prefix.old
}

supervised() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

running() {
    supervised || return 0
    for unit in $units; do
        ! systemctl is-active --quiet "$unit" || printf '%s ' "$unit"
    done
}

# What a run that was killed left half done.
tidy() {
    rm -rf "$new" "$now.failed"
    [ -d "$now" ] || [ ! -d "$old" ] || mv "$old" "$now"
}

build() {
    python=${python:-$(command -v python3 || true)}
    [ -n "$python" ] || refuse 'there is no python3' 'install Python 3.11 or later, or name one with --python'
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        refuse "$python is older than Python 3.11" 'name another one with --python'
    case $("$python" -c 'import sys; print(sys.base_prefix)') in
        /home/* | /root/*) [ -n "$root" ] ||
            refuse "$python lies in a home, which the services may not see" 'name one of the system with --python' ;;
    esac
    mkdir -p "$root/opt"
    "$python" -m venv "$new" || refuse "$python cannot make an environment" 'on Debian: apt install python3-venv'
    wanted="warpline[$extra]${version:+==$version}"
    [ -n "$version" ] || [ ! -f "$here/../pyproject.toml" ] || wanted="$(cd "$here/.." && pwd)[$extra]"
    [ -z "$wheel" ] || wanted="$(cd "$(dirname "$wheel")" && pwd)/$(basename "$wheel")[$extra]"
    "$new/bin/python" -m pip install -q --no-input --no-compile --disable-pip-version-check "$wanted" ||
        refuse "pip cannot install $wanted" 'nothing was changed'
    mkdir -p "$new/share/warpline"
    cp -R "$here/." "$new/share/warpline/"
    # It is built beside its place, and knows itself by the place.
    grep -rlIF "$new" "$new/bin" "$new/pyvenv.cfg" | xargs -r sed -i "s|$new|$prefix|g"
}

# The new version runs and reads the settings that are there; then it is compiled for good, as nobody may write there later.
check() {
    told=$("$new/bin/python" "$new/bin/warpline" --version) || refuse 'the new version does not run' 'nothing was changed'
    settings=$root/etc/warpline/config.toml
    [ -f "$settings" ] || settings=$here/config.toml
    "$new/bin/python" "$new/bin/warpline" config validate --config "$settings" >/dev/null ||
        refuse 'the new version does not read the settings' 'nothing was changed'
    # A library may ship files that are not for this Python; pip itself is never imported by a service.
    "$new/bin/python" -m compileall -q -s "$new" -p "$prefix" -x '/(pip|setuptools|_distutils_hack)/' "$new/lib" || true
}

# Units, users, directories, and settings where there are none. FROM is the deploy folder of the version that is to run.
place() {
    from=$1
    for each in "$from"/systemd/*.service; do install -D -m 644 "$each" "$root$library/systemd/system/${each##*/}"; done
    install -D -m 644 "$from/preset/90-warpline.preset" "$root$library/systemd/system-preset/90-warpline.preset"
    for each in sysusers.d tmpfiles.d; do
        install -D -m 644 "$from/$each/warpline.conf" "$root$library/$each/warpline.conf"
    done
    for each in "$from"/default/*; do keep "$each" "$root/etc/default/${each##*/}" || true; done
    if keep "$from/config.toml" "$root/etc/warpline/config.toml" && [ -n "$collector" ]; then
        sed -i "s|^collector = .*|collector = \"$collector\"|" "$root/etc/warpline/config.toml"
    fi
    systemd-sysusers ${root:+--root="$root"} warpline.conf
    systemd-tmpfiles ${root:+--root="$root"} --create warpline.conf
    completions
    ! supervised || systemctl daemon-reload
}

# What shells complete and what man shows, as the version that is to run tells it; where its libraries are not all there, nothing.
completions() {
    forget
    "$now/bin/python" -B "$now/bin/warpline" completion --install "$root${library%/*}/share" >/dev/null 2>&1 || forget
}

forget() {
    for each in bash-completion/completions/warpline zsh/site-functions/_warpline fish/vendor_completions.d/warpline.fish; do
        rm -f "$root${library%/*}/share/$each"
    done
    rm -f "$root${library%/*}"/share/man/man1/warpline.1 "$root${library%/*}"/share/man/man1/warpline-*.1
}

keep() { # SOURCE TARGET: false where there is one already
    [ ! -e "$2" ] && install -D -m 644 "$1" "$2"
}

start() { # UNITS: until each has said that it works
    for unit in $1; do
        systemctl reset-failed "$unit" 2>/dev/null || true
        systemctl start "$unit" || return 1
    done
    [ -z "$1" ] || sleep "$settle_seconds"
    for unit in $1; do systemctl is-active --quiet "$unit" || return 1; done
}

stop() {
    for unit in $1; do systemctl stop "$unit"; done
}

swap() { # what runs now becomes the one before
    rm -rf "$old"
    [ ! -d "$now" ] || mv "$now" "$old"
    mv "$new" "$now"
}

take_back() { # UNITS
    stop "$1"
    mv "$now" "$now.failed"
    mv "$old" "$now"
    place "$now/share/warpline"
    start "$1" || say "the version before does not start either: journalctl -u warpline-agent -u warpline-collector"
    rm -rf "$now.failed"
}

install_version() {
    tidy
    trap 'rm -rf "$new"' EXIT
    build
    check
    active=$(running)
    stop "$active"
    swap
    place "$now/share/warpline"
    if ! start "$active"; then
        [ -d "$old" ] || refuse 'a service does not start' "journalctl -u ${active%% *}"
        take_back "$active"
        refuse "$told does not start, and was taken back" 'journalctl says why; settings and data are as they were'
    fi
    say "$told is installed${active:+ and runs: $active}"
    [ -n "$active" ] || say 'start it: systemctl enable --now warpline-agent (or warpline-collector)'
}

rollback() {
    [ -d "$old" ] || refuse 'there is no version before this one' 'install.sh install --version V'
    active=$(running)
    stop "$active"
    mv "$old" "$new"
    swap
    place "$now/share/warpline"
    start "$active" || refuse 'the version before does not start' 'install.sh rollback takes the newer one again'
    say "$("$now/bin/python" "$now/bin/warpline" --version) is back"
}

uninstall() {
    if supervised; then
        for unit in $units; do
            systemctl disable --now "$unit" 2>/dev/null || true
            systemctl reset-failed "$unit" 2>/dev/null || true
        done
    fi
    for unit in $units; do rm -f "$root$library/systemd/system/$unit.service"; done
    for each in systemd/system-preset/90-warpline.preset sysusers.d/warpline.conf tmpfiles.d/warpline.conf; do
        rm -f "$root$library/$each"
    done
    forget
    rm -rf "$now" "$new" "$old" "$now.failed"
    [ -z "$purge" ] || remove_data
    ! supervised || systemctl daemon-reload
    say "removed${purge:+, with settings and data}"
}

remove_data() {
    for each in lib/warpline lib/warpline-collector lib/warpline-guard; do rm -rf "$root/var/${each:?}"; done
    rm -rf "$root/etc/warpline"
    for unit in $units; do rm -rf "$root/etc/systemd/system/$unit.service.d" "$root/etc/default/$unit"; done
    for user in $users; do
        if [ -n "$root" ]; then
            for each in passwd group shadow gshadow; do sed -i "/^$user:/d" "$root/etc/$each"; done
        elif id "$user" >/dev/null 2>&1; then
            userdel "$user"
        fi
    done
}

verb=${1-}
[ $# -eq 0 ] || shift
case $verb in
    install | upgrade) act=install_version ;;
    rollback | uninstall) act=$verb ;;
    --help | -h) usage && exit 0 ;;
    *) usage >&2 && exit 64 ;;
esac
options "$@"
"$act"
