#!/bin/busybox sh
# The first process of the virtual machine: makes the system usable, runs the steps, says how each ended, and ends the machine.
# The report is what xtask reads: each line of it begins a line, and nothing else is written as it is.

say() {
    printf '\nguard-vm: %s\n' "$*"
}

step() {
    name=$1
    shift
    say "begin $name"
    "$@"
    say "end $name $?"
}

# The command must end with status 1 and one line that names this kernel.
refuses() {
    said=$("$@" 2>&1)
    status=$?
    echo "$said (status $status)"
    [ "$status" -eq 1 ] && [ "$(echo "$said" | wc -l)" -eq 1 ] && echo "$said" | grep -qF "$(uname -r)"
}

set_up() {
    mount -t proc proc /proc &&
        mount -t sysfs sysfs /sys &&
        mount -t devtmpfs devtmpfs /dev &&
        mount -t bpf bpf /sys/fs/bpf &&
        # Nothing but a panic may come between the lines of the report.
        dmesg -n 1 &&
        ip link set lo up || return
    while read -r module; do
        insmod "/guard-vm/$module" || return
    done </guard-vm/modules
}

/bin/busybox --install -s /bin
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
say "kernel $(uname -r)"
step set-up set_up
. /guard-vm/steps
say "done"
poweroff -f
