# Says of each process from the parent of this shell up to process $STOP whether the interception library is in it or in its environment.
grep -q liblifeboat_preload /proc/$$/maps && echo "own mapped"
process=$PPID
while [ "$process" -gt 1 ] && [ "$process" != "$STOP" ]; do
    said=clean
    grep -q liblifeboat_preload /proc/"$process"/maps && said=mapped
    tr '\0' '\n' < /proc/"$process"/environ | grep -q '^LD_PRELOAD=\|^LIFEBOAT_REGION=\|^LIFEBOAT_MOUNT=' && said="$said, in its environment"
    echo "$(cat /proc/"$process"/comm) $said"
    while read -r name value; do [ "$name" != PPid: ] || process=$value; done < /proc/"$process"/status
done
