# The configuration of the host and its documents are packed, copied, compared and restored.
tar --create --gzip --file etc.tar.gz --warning=no-file-changed /etc 2>/dev/null || [ $? = 1 ]
tar --list --gzip --file etc.tar.gz >/dev/null
mkdir restored
tar --extract --gzip --file etc.tar.gz --directory restored etc/hostname etc/passwd
find /usr/share/doc -maxdepth 1 -name 'lib*' | head -n 200 >list
tar --create --file doc.tar --files-from list
command -v rsync >/dev/null || { echo "rsync is not installed: only tar was used"; exit 77; }
rsync --archive --delete /etc/ copy/
rsync --archive --delete --checksum /etc/ copy/
sha256sum etc.tar.gz doc.tar >sums
sha256sum --check --quiet sums
