# Commands as another user, by sudo, su and runuser.
runuser -u nobody -- id
su -s /bin/sh -c 'id' nobody
command -v sudo >/dev/null || { echo "sudo is not installed: su and runuser were used"; exit 77; }
sudo -n id
sudo -n -u nobody id
