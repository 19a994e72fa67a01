# A login with a key, a command and a copy, through an ssh server of its own on loopback.
sshd=/usr/sbin/sshd
[ -x "$sshd" ] || { echo "sshd is not installed"; exit 77; }
mkdir -p /run/sshd
ssh-keygen -q -t ed25519 -N '' -f host_key
ssh-keygen -q -t ed25519 -N '' -f user_key
cp user_key.pub authorized_keys
chmod 0700 .
chmod 0600 authorized_keys
for port in $(seq 42022 42060); do
    printf 'Port %s\nListenAddress 127.0.0.1\nHostKey %s/host_key\nPidFile %s/sshd.pid\nAuthorizedKeysFile %s/authorized_keys\nPasswordAuthentication no\nStrictModes no\nPermitRootLogin prohibit-password\nUsePAM yes\nSubsystem sftp internal-sftp\n' \
        "$port" "$PWD" "$PWD" "$PWD" >sshd_config
    "$sshd" -f sshd_config -E sshd.log && break
done
trap 'kill "$(cat sshd.pid)" 2>/dev/null' EXIT
tries=50
until [ -s sshd.pid ]; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { cat sshd.log; exit 1; }
    sleep 0.1
done
options="-i user_key -o StrictHostKeyChecking=no -o UserKnownHostsFile=$PWD/known_hosts -o BatchMode=yes"
ssh $options -p "$port" "$(id -un)@127.0.0.1" 'uptime; df -h / >/dev/null; ls /var/log >/dev/null'
echo copied >file
scp -q $options -P "$port" file "$(id -un)@127.0.0.1:$PWD/file.copy"
cat file.copy
