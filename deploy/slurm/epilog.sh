#!/bin/sh
# Epilog of slurm.conf, as root after each job: what processes of the job's user that are gone have left in memory is removed. The
# agent as its own user may read those files, not remove them. It never fails: an epilog that does drains the node.
folder=${WARPLINE_DIRECTORY:-/dev/shm}
settle_seconds=${WARPLINE_SETTLE_SECONDS:-5} # the agent reads the last records meanwhile
user=${SLURM_JOB_UID:-}
case $user in '' | 0 | *[!0-9]*) exit 0 ;; esac
here=$(stat -L -c %i /proc/self/ns/pid)

started() { # PID: in ticks since boot, nothing where there is none
    sed -n 's/^.*) //p' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
}

has_processes() { # of the user, at all
    [ -n "$(find /proc -maxdepth 1 -name '[0-9]*' -uid "$user" -print -quit 2>/dev/null)" ]
}

left() { # files whose writers are gone; those of other pid namespaces once the user has no process here
    find "$folder" -maxdepth 1 -type f -uid "$user" -name 'warpline-[0-9]*-[0-9]*-[0-9]*' 2>/dev/null | while read -r path; do
        name=${path##*/warpline-}
        rest=${name#*-}
        ticks=${rest#*-}
        if [ "${name%%-*}" = "$here" ]; then
            [ "$(started "${rest%%-*}")" = "${ticks%%.*}" ] || printf '%s\n' "$path"
        elif ! has_processes; then
            printf '%s\n' "$path"
        fi
    done
    has_processes || find "$folder" -maxdepth 1 -type p -uid "$user" -name 'warpline-flight-*' 2>/dev/null
}

[ -n "$(left)" ] || exit 0
sleep "$settle_seconds"
left | while read -r path; do rm -f -- "$path"; done
exit 0
