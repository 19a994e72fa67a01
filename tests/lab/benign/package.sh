# A package of our own is installed, upgraded, reinstalled and purged: a program, a configuration file, a cron job, a
# service and scripts, as packages have them. Then one of Debian's is installed again.
make_package() {
    mkdir -p tree/DEBIAN tree/usr/bin tree/etc/cron.d tree/lib/systemd/system tree/usr/share/doc/fleetmend-benign
    printf 'Package: fleetmend-benign\nVersion: %s\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: benign\n' \
        "$1" >tree/DEBIAN/control
    printf '/etc/fleetmend-benign.conf\n/etc/cron.d/fleetmend-benign\n' >tree/DEBIAN/conffiles
    printf '#!/bin/sh\nset -e\nchmod 0755 /usr/bin/fleetmend-benign\nldconfig\n' >tree/DEBIAN/postinst
    printf '#!/bin/sh\nset -e\n' >tree/DEBIAN/prerm
    chmod 0755 tree/DEBIAN/postinst tree/DEBIAN/prerm
    printf '#!/bin/sh\necho version %s\n' "$1" >tree/usr/bin/fleetmend-benign
    chmod 0755 tree/usr/bin/fleetmend-benign
    printf 'version=%s\n' "$1" >tree/etc/fleetmend-benign.conf
    printf '* * * * * root /usr/bin/fleetmend-benign >/dev/null\n' >tree/etc/cron.d/fleetmend-benign
    printf '[Service]\nExecStart=/usr/bin/fleetmend-benign\n' >tree/lib/systemd/system/fleetmend-benign.service
    dpkg-deb --build --root-owner-group tree "benign-$1.deb" >/dev/null
}
make_package 1.0
make_package 2.0
trap 'dpkg --purge fleetmend-benign >/dev/null 2>&1' EXIT
dpkg --install benign-1.0.deb
fleetmend-benign
dpkg --install benign-2.0.deb
fleetmend-benign
dpkg --install benign-2.0.deb
# A cron job of the package runs meanwhile, where cron does.
dpkg --purge fleetmend-benign
trap - EXIT
DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --reinstall --no-install-recommends hostname
