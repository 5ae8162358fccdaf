#!/bin/sh
# What a node says and does whose agent never runs: pessimistic.sh label|taint|no-join|absent [ROOT]. See README.md.
# For userData, before it fetches the binary. Writes the files that the agent itself writes first at every boot.
set -eu

case ${1:-} in
    label | taint | no-join | absent) policy=$1 ;;
    *)
        echo "usage: $0 label|taint|no-join|absent [ROOT]" >&2
        exit 2
        ;;
esac
root=${2:-/}
root=${root%/}
here=$(dirname "$0")
domain=nvme-agent.e6data.com
dropins=$root/etc/eks/nodeadm.d
cached=$root/run/eks/nodeadm/config.json
environment=$root/etc/eks/kubelet/environment

# nodeadm takes what ends in .yaml, and fails on half of one: a dot-name, flushed, renamed.
put() { # FILE: its text from stdin, whole or not at all
    new=$(dirname "$1")/.$(basename "$1").nvme-agent.$$.0
    # Empty: what made the text failed.
    if mkdir -p "$(dirname "$1")" && cat >"$new" && [ -s "$new" ] && chmod 0644 "$new" && sync "$new" && mv "$new" "$1"; then
        return 0
    fi
    rm -f "$new" || :
    echo "$0: $1 could not be written" >&2
    return 1
}

gate() {
    # AL2 has no nodeadm: there it is kubelet.
    unit=kubelet.service
    for dir in etc/systemd usr/lib/systemd lib/systemd; do
        [ ! -f "$root/$dir/system/nodeadm-run.service" ] || unit=nodeadm-run.service
    done
    # The one that the units run, as `install` has it. Where neither is there systemd cannot execute it, and the node does not join.
    binary=/usr/local/bin/nvme-agent
    [ ! -f "$root/usr/bin/nvme-agent" ] || binary=/usr/bin/nvme-agent
    # On a root volume that is full or read-only there is still /run. The agent's own, of the same name in /etc, then wins over it.
    written=no
    for dir in etc run; do
        sed "s|/usr/local/bin/nvme-agent|$binary|" "$here/nodeadm-run.service.d/50-nvme-agent.conf" |
            put "$root/$dir/systemd/system/$unit.d/50-nvme-agent.conf" || continue
        written=yes
        break
    done
    # The unit may be waiting for its start already.
    [ -n "$root" ] || systemctl daemon-reload
    [ "$written" = yes ]
}

# Fails where a shell cannot know what else the node is to be tainted with, and changes nothing then. A list that lacks
# karpenter.sh/unregistered would have Karpenter not take the node for its own.
taint() {
    # Cached, whole, and without the flag, which wins over the list.
    [ -d "$dropins" ] && grep -qs '"spec"' "$cached" && ! grep -q register-with-taints "$cached" || return 1
    for other in "$dropins"/*; do
        [ "$other" != "$dropins/50-nvme-agent.yaml" ] || continue
        ! grep -qs -e registerWithTaints -e register-with-taints "$other" || return 1
    done
    # The list is replaced as a whole, so that what is there is taken over. A taint has neither brackets nor blanks. nodeadm
    # writes the keys of an object sorted.
    ours="{\"effect\":\"NoSchedule\",\"key\":\"$domain/failed\"}"
    theirs=$(tr -d '[:space:]' <"$cached" | sed -n 's/.*"registerWithTaints":\(\[[^]]*\]\).*/\1/p')
    case $theirs in
        '')
            ! grep -q registerWithTaints "$cached" || return 1
            taints="[$ours]"
            ;;
        '[]') taints="[$ours]" ;;
        *"$domain/failed"*) taints=$theirs ;;
        *) taints=$(printf '%s\n' "$theirs" | sed "s|]\$|,$ours]|") ;;
    esac
    sed "s|@TAINTS@|$taints|" "$here/50-nvme-agent-tainted.yaml" | put "$dropins/50-nvme-agent.yaml"
}

label() {
    form=$here/50-nvme-agent.yaml
    [ "$policy" != absent ] || form=$here/50-nvme-agent-absent.yaml
    if [ -d "$dropins" ]; then
        put "$dropins/50-nvme-agent.yaml" <"$form"
    elif [ -f "$environment" ] && ! grep -q "=[^ ]*$domain/state=" "$environment"; then
        labels=$(sed -n 's/^ *- "\(--node-labels=[^"]*\)"$/\1/p' "$form")
        # Inside of a quote around the whole value, else at its end. What begins with another quote is left alone.
        sed -e "s|^\(NODEADM_KUBELET_ARGS=\"[^\"]*\)\"\$|\1 $labels\"|" -e t \
            -e "s|^\(NODEADM_KUBELET_ARGS='[^']*\)'\$|\1 $labels'|" -e t \
            -e "s|^NODEADM_KUBELET_ARGS=\$|&$labels|" -e t \
            -e "s|^NODEADM_KUBELET_ARGS=[^\"'].*\$|& $labels|" "$environment" | put "$environment"
    fi
}

if [ "$policy" = taint ]; then
    ! taint || exit 0
    # Without the agent, which can more than a shell, the node then does not join.
    policy=no-join
fi
# The label first: once the gate is there, whatever becomes of the rest, the node does not join without it.
failed=0
label || failed=1
[ "$policy" != no-join ] || gate || failed=1
exit $failed
