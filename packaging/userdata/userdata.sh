#!/bin/bash
## The template of `nvme-agent render userdata` (agent/src/render/userdata.rs), which puts values in for what is between at-signs,
## keeps of the parts between `##[` and `##]` those that the options need, and takes out these comments and the indentation: EC2
## has room for 16 KiB in all. Plain POSIX, and neither a dollar nor a per cent sign before a brace, so that nothing has to be
## escaped in Terraform. agent/tests/userdata.rs holds it against ../registration/pessimistic.sh, which has the reasons, and
## against the agent's own files: with another directory than / to stand in, since every path is relative.
##[pinned
# nvme-agent @VERSION@; log: journalctl -t nvme-agent
##]
PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /
a=nvme-agent
pkg=usr/bin/$a
own=usr/local/bin/$a
lib=var/lib/$a
new=$lib/download
dir=etc/eks/nodeadm.d
file=$dir/50-$a.yaml
toml=etc/$a/config.toml
env=etc/eks/kubelet/environment
## In the labels, for their length.
# shellcheck disable=SC2034
D=@DOMAIN@

say() { timeout 5 logger -st $a -- "userData: $*"; }

## FILE, its text from stdin. nodeadm never meets half of one: a dot-name, flushed, renamed.
put() {
    d=$(dirname "$1")
    n=$d/.$(basename "$1").$a.$$.0
    mkdir -p "$d" && cat >"$n" && [ -s "$n" ] && chmod 0644 "$n" && timeout 20 sync "$n" && mv "$n" "$1" && return
    rm -f "$n"
    say "cannot write $1"
    false
}

labels() { echo "--node-labels=@STATE@=$1@LABELS@"; }

## STATE
config() {
    cat <<EOF
@HEAD@
      - "$(labels "$1")"
EOF
}

## nodeadm reads the directory: an older image's unit does not name it, whoever has made it there.
u=nodeadm-run
s=systemd/system/$u.service
reads() { [ -d $dir ] && { [ ! -f etc/$s ] || grep -qs $dir etc/$s etc/$s.d/*; }; }

## STATE
label() {
    if reads; then
        config "$1" | put $file
    elif l=$(labels "$1") && [ -f $env ] && ! grep -qFe "$l" $env; then
        v=NODEADM_KUBELET_ARGS
        ## In a quote around the whole value, else at its end. What begins with another quote is left alone.
        sed -e "s|^\($v=\([\"']\)[^\"']*\)\2\$|\1 $l\2|" -e t -e "s|^$v=\$|&$l|" -e t \
            -e "s|^$v=[^\"'].*|& $l|" $env | put $env
    fi
}

##[gate
gate() {
    [ -f etc/$s ] || [ -f usr/lib/$s ] || [ -f lib/$s ] || u=kubelet
    b=$pkg
    [ -f $b ] || b=$own
    for at in etc run; do
        put $at/systemd/system/$u.service.d/50-$a.conf <<EOF && break
# Written by \`$a install\`, which overwrites it.
[Service]
ExecStartPre=/$b gate
EOF
    done
    timeout 60 systemctl daemon-reload || say 'daemon-reload failed'
}

##]
##[taint
## Fails where a shell cannot know what else the node is to be tainted with.
taint() {
    reads && ! grep -Els 'register(WithT|-with-t)aints' $dir/* | grep -qv 50-$a || return
    ours='{"effect":"NoSchedule","key":"'@TAINT@'"}'
    t=$(tr -d '[:space:]' <run/eks/nodeadm/config.json)
    case $t in
        *register-with-taints*) return 1 ;;
        *'"registerWithTaints":['*)
            t=$(echo "$t" | sed -e 's/.*"registerWithTaints":\[\([^]]*\)\].*/\1,/' -e 's/^,//' -e "s|$ours,||")
            ;;
        *registerWithTaints*) return 1 ;;
        *'"spec"'*) t='' ;;
        *) return 1 ;;
    esac
    {
        config failed
        printf '    config:\n      registerWithTaints: [%s]\n' "$t$ours"
    } | put $file
}

##]
if [ $# = 0 ]; then
    ## The image is of a node that had userData, whose configuration it was.
    ! grep -qsx '# By userData' $toml || rm -f $toml
##[absent
    if ! grep -qs @MODELS@ sys/class/nvme/*/model; then
        label absent
        exit 0
    fi
##]
    ## What holds where all of the rest fails.
##[label
    label failed
##]
##[taint
    taint || { label failed; gate; }
##]
##[no-join
    label failed
    gate
##]
    ## Where this was called from, for a name that is relative to it.
    cd "$OLDPWD" || :
    timeout -k 10 @DEADLINE@ /bin/bash "$0" fetch </dev/null || say "gave up ($?)"
    exit 0
fi

##[pinned
case $(uname -m) in
##]
##[x86_64
    x86_64) url=@URL_X86_64@ sum=@SUM_X86_64@ ;;
##]
##[aarch64
    aarch64) url=@URL_AARCH64@ sum=@SUM_AARCH64@ ;;
##]
##[pinned
esac
##]

good() { [ -f "$1" ] && [ "$(sha256sum <"$1")" = "$sum  -" ]; }

## Fetches url into FILE, or says in why what kept it from that.
get() {
##[either
    case $url in s3:*)
##]
##[s3
        set -- aws s3 cp --only-show-errors@REGION@ "$url" "$1"
##]
##[either
        ;; *)
##]
##[curl
        set -- curl -gfsSL --retry 3 --connect-timeout 10 -o "$1" "$url"
##]
##[either
        ;; esac
##]
    why=$(timeout -k 5 @TRY@ "$@" 2>&1) || ! why="status $? $why"
}

##[channel
t=$new.d
c=@BASE@
## Sets url and sum to what the channel has for this machine. Of its manifest m nothing is believed before the signature s holds, which
## is minisign's: Ed25519 of the BLAKE2b of the file (its second line begins with `ED`, which is RU in base64), or of the file (`Ed`,
## RW). The name is one that no other file with a signature of the same key has, and neither path nor option.
named() {
    url=$c"@FILE@"
    get $t/m && url=$url.minisig && get $t/s || return
    why=$(
        cd $t || exit
        sed -n 2p s >b
        base64 -d b | tail -c 64 >r
        echo @KEY@ | base64 -d >k
        openssl dgst -blake2b512 -binary m >h
        grep -q ^RW b && cp m h
        openssl pkeyutl -verify -pubin -inkey k -rawin -in h -sigfile r 2>&1
    ) || ! why="not signed, or no openssl 3: $why" || return
    grep -x "[0-9a-f]*  $a-[^/ ]*-$(uname -m)" $t/m >$t/n && read -r sum n <$t/n && url=$c$n
}

##]
fetch() {
##[pinned
    [ "$url" ] && mkdir -p $lib || return
##]
##[channel
    mkdir -p $t
##]
    chmod 0700 $lib
    for _ in 1 2 3; do
##[channel
        named && if good $bin; then return; fi &&
##]
        get $new && { good $new || ! why='wrong sha256'; } && chmod 0755 $new && bin=$new && return
        say "$url: $why"
        rm -f $new
        sleep 5
    done
    false
}

## A package's binary is the one that its units run, and is never shadowed. Of others the one that is named here is wanted.
bin=$pkg
if [ -x $bin ]; then
    good $bin || say "$bin is kept"
else
    bin=$own
    good $bin || fetch || [ -x $bin ] || { say "no binary for $(uname -m)"; exit 1; }
fi
##[config

## A package's has all of its lines commented out: it says nothing, and must not keep out what userData says.
if ! grep -qs '^[^#]' $toml; then
    put $toml <<'EOF' || exit 1
# By userData
@CONFIG@
EOF
else
    say "$toml stays"
fi
##]

go() {
    ## By this shell, which runs no binary of another architecture as a script, as timeout(1) may. In time: see the deadline.
    $bin install || return
    if [ $bin != $pkg ]; then
        restorecon $own 2>/dev/null
        rm -rf $new*
        bin=$own
    fi
    ## In this group, which the deadline ends as a whole: nothing of it goes on beside nodeadm. What setup started ends with it.
    timeout --foreground -k 10 @SETUP@ $bin setup --trigger user-data
}

why=$(go 2>&1) || { say "$bin: status $? $why"; exit 1; }
echo "$why"
## Not waited for: it comes after kubelet, which comes after this.
timeout 20 systemctl --no-block start $a-report.timer
exit 0
