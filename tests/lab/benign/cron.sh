# A cron job of the host's crontab runs, once a minute as cron has it.
command -v cron >/dev/null || { echo "cron is not installed"; exit 77; }
own=
if ! pidof cron >/dev/null; then
    cron -f &
    own=$!
fi
finish() {
    crontab -r 2>/dev/null || true
    if [ -n "$own" ]; then kill "$own"; fi
}
# What an earlier run left that was killed: one job, in a folder of ours.
left=$(crontab -l 2>/dev/null) || left=
case $left in
*"
"*) ;;
*/fleetmend-benign-*/ran) crontab -r ;;
esac
if crontab -l >/dev/null 2>&1; then
    echo "there is a crontab already, which is left alone"
    exit 77
fi
trap finish EXIT
printf '* * * * * date >>%s/ran\n' "$PWD" | crontab -
tries=75
until [ -s ran ]; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { echo "cron did not run the job within 75 s"; exit 1; }
    sleep 1
done
