#!/bin/busybox sh
# First process of a virtual machine of the kernel matrix. Mounts what a host has, runs every test in a process of its
# own, says on the second serial port what became of it, and powers off. Loads no module.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /var/tmp /bb
/bin/busybox --install -s /bb
export PATH=/usr/sbin:/usr/bin:/bb HOME=/root LC_ALL=C.UTF-8 RUST_BACKTRACE=1 FLEETMEND_VM=1 CI=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
chmod 1777 /tmp /var/tmp /dev/shm
ln -s /proc/self/fd /dev/fd
ip link set lo up
hostname fleetmend-matrix
# As the agent's unit has it: kernels before 5.11 count BPF maps against this limit.
ulimit -l unlimited
exec >/dev/ttyS1 2>&1 </dev/null

# An agent of a Debian host runs in a group of a unit.
mkdir -p /sys/fs/cgroup/system.slice/matrix.service
for controller in memory pids cpu io; do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
    echo "+$controller" >/sys/fs/cgroup/system.slice/cgroup.subtree_control
done 2>/dev/null
echo $$ >/sys/fs/cgroup/system.slice/matrix.service/cgroup.procs
. /tests/environment
FLEETMEND_VM_MODULES=/lib/modules/$(uname -r)
export FLEETMEND_VM_MODULES

share=$(sed 's/.*fleetmend.share=\([0-9/]*\).*/\1/' /proc/cmdline)

seconds() { cut -d' ' -f1 /proc/uptime; }

echo "== KERNEL $(uname -r)"
while read -r suite filter; do
    # What it says in full; the tests must not be held up by the port.
    "/tests/$suite" --list --format terse "$filter" | sed -n 's/: test$//p' | grep -e "$FILTER" |
        awk -v "index_=${share%/*}" -v "of=${share#*/}" 'NR % of == index_' >/run/names
    echo "== SHARE $(wc -l </run/names)"
    while read -r name; do
        echo "== TEST $name"
        begun=$(seconds)
        timeout -s KILL "$TEST_SECONDS" "/tests/$suite" --exact --nocapture --test-threads=1 "$name" \
            >/run/said 2>&1 </dev/null
        code=$?
        ended=$(seconds)
        if [ "$code" = 0 ]; then
            grep -e '^FAMILY ' -e '^COULD NOT RUN' -e '^not run' /run/said | head -n 100
        else
            tail -c 20000 /run/said | tail -n 200
        fi | sed 's/^/| /'
        echo "== DONE $name $code $begun $ended"
    done </run/names
done </tests/suites
echo "== END"
# The port is emptied first.
sync
poweroff -f
