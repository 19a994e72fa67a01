# Logs are written, rotated and compressed.
command -v logrotate >/dev/null || { echo "logrotate is not installed"; exit 77; }
mkdir -p log
chmod 0755 . log
for number in $(seq 1 2000); do echo "line $number of a log that grows"; done | tee log/one.log log/two.log >/dev/null
printf '%s/log/*.log {\n  rotate 3\n  size 1k\n  compress\n  missingok\n  create 0640 root root\n  postrotate\n    true\n  endscript\n}\n' "$PWD" >rotate.conf
chmod 0644 rotate.conf
logrotate --state "$PWD/rotate.state" --force rotate.conf
logrotate --state "$PWD/rotate.state" --force rotate.conf
ls log
