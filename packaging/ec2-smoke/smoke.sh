#!/usr/bin/env bash
# nvme-agent on real EC2 instances: fresh, rebooted, stopped and started, and with S3 denied; see README.md. Their userData is what
# `nvme-agent render userdata` prints. Needs the AWS CLI and an agent that runs here. It starts instances, which cost money, and ends
# every one of them, also when it fails or is interrupted.
set -euo pipefail

usage() {
    cat <<'END'
usage: smoke.sh --bucket BUCKET --subnet SUBNET --instance-profile NAME --binaries DIR [OPTION...]

  --bucket BUCKET           where the binaries are put: nvme-agent-smoke/, and nvme-agent-smoke-denied/ for the fourth case
  --subnet SUBNET           with a way to S3 and SSM
  --instance-profile NAME   AmazonSSMManagedInstanceCore, and s3:GetObject on BUCKET/nvme-agent-smoke/* alone
  --binaries DIR            has nvme-agent-x86_64 and nvme-agent-aarch64, such as target/dist
  --agent PROGRAM           prints userData; default: that of --binaries for this machine
  --region REGION           of the bucket, for userData; default: what the instance's aws finds out
  --types "TYPE..."         default: m6id.large i4i.large i8g.large
  --out DIR                 for status as JSON and the table; default: ec2-smoke-out
  --deadline SECONDS        for each wait; default: 600
  --yes                     do not ask before anything is started
END
}

fail() {
    echo "smoke.sh: $*" >&2
    exit 2
}

bucket='' subnet='' profile='' binaries='' agent='' region=''
types='m6id.large i4i.large i8g.large' out=ec2-smoke-out deadline=600 yes=no
pause=${SMOKE_PAUSE:-10}
while [ $# -gt 0 ]; do
    case $1 in
        --yes) yes=yes ;;
        --help | -h) usage && exit 0 ;;
        --bucket | --subnet | --instance-profile | --binaries | --agent | --region | --types | --out | --deadline)
            [ $# -ge 2 ] || fail "$1 needs a value"
            case $1 in
                --bucket) bucket=$2 ;;
                --subnet) subnet=$2 ;;
                --instance-profile) profile=$2 ;;
                --binaries) binaries=$2 ;;
                --agent) agent=$2 ;;
                --region) region=$2 ;;
                --types) types=$2 ;;
                --out) out=$2 ;;
                --deadline) deadline=$2 ;;
            esac
            shift
            ;;
        *) usage >&2 && fail "unknown: $1" ;;
    esac
    shift
done
# They end up in a root shell on the instance.
[[ $bucket =~ ^[a-z0-9][a-z0-9.-]+$ ]] || fail "--bucket: expected a bucket's name, found '$bucket'"
[[ $subnet =~ ^subnet-[0-9a-f]+$ ]] || fail "--subnet: expected subnet-..., found '$subnet'"
[[ $profile =~ ^[A-Za-z0-9+=,.@_-]+$ ]] || fail "--instance-profile: expected a name, found '$profile'"
[[ $region =~ ^[a-z0-9-]*$ ]] || fail "--region: expected one such as eu-west-1, found '$region'"
[[ $deadline =~ ^[1-9][0-9]*$ ]] || fail "--deadline: expected seconds, found '$deadline'"
for arch in x86_64 aarch64; do
    [ -f "$binaries/nvme-agent-$arch" ] || fail "--binaries: there is no $binaries/nvme-agent-$arch"
done
agent=${agent:-$binaries/nvme-agent-$(uname -m)}
command -v "$agent" >/dev/null || fail "--agent: '$agent' cannot be executed here"
command -v aws >/dev/null || fail 'the AWS CLI is not installed'

# The shim that nodes get, for both architectures. PREFIX is where in the bucket it looks.
user_data() { # PREFIX
    local arch sum options=()
    for arch in x86_64 aarch64; do
        sum=$(sha256sum <"$binaries/nvme-agent-$arch")
        options+=("--url-${arch/_/-}" "s3://$bucket/$1/nvme-agent-$arch" "--sha256-${arch/_/-}" "${sum%% *}")
    done
    [ -z "$region" ] || options+=(--region "$region")
    "$agent" render userdata "${options[@]}"
}

# Both before anything is started.
may=nvme-agent-smoke may_not=nvme-agent-smoke-denied
fetches=$(user_data $may) || fail "--agent: '$agent render userdata' failed"
fails=$(user_data $may_not) || fail "--agent: '$agent render userdata' failed"

account=$(aws sts get-caller-identity --query Account --output text)
echo "account $account, subnet $subnet: two instances of each of $types, for about 20 minutes each, one type after the other"
if [ "$yes" != yes ]; then
    read -r -p 'Start them? (yes) ' answer
    [ "$answer" = yes ] || fail 'nothing was started'
fi

mkdir -p "$out"
table=$out/table.md
printf '| type | case | expected | found | seconds |\n|---|---|---|---|---|\n' >"$table"
started=() wrong=0

finish() {
    local code=$?
    trap - EXIT INT TERM
    if [ ${#started[@]} -gt 0 ]; then
        aws ec2 terminate-instances --instance-ids "${started[@]}" --output text >/dev/null ||
            echo "smoke.sh: these may still run: ${started[*]}" >&2
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# A line of the table; what was found is compared with what was expected.
row() { # TYPE CASE EXPECTED FOUND SINCE
    printf '| %s | %s | %s | %s | %s |\n' "$1" "$2" "$3" "$4" $((SECONDS - $5)) | tee -a "$table"
    [ "$3" = "$4" ] || wrong=$((wrong + 1))
}

# Starts one; its id goes into $instance. There may be no capacity for a type: the others are tried all the same.
launch() { # TYPE ARCH USER-DATA
    local image
    image=$(aws ssm get-parameter --query Parameter.Value --output text \
        --name "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-${2/aarch64/arm64}") || return 1
    printf '%s\n' "$3" >"$out/user-data"
    instance=$(aws ec2 run-instances --image-id "$image" --instance-type "$1" --subnet-id "$subnet" \
        --iam-instance-profile "Name=$profile" --user-data "file://$out/user-data" \
        --metadata-options HttpTokens=required --instance-initiated-shutdown-behavior terminate \
        --tag-specifications 'ResourceType=instance,Tags=[{Key=Name,Value=nvme-agent-smoke}]' \
        --query 'Instances[0].InstanceId' --output text) || return 1
    started+=("$instance")
}

# Runs a script, without double quotes or backslashes, on the instance as root and prints what it prints; fails when it fails or
# does not end in time.
on() { # INSTANCE SCRIPT
    local command status='' limit=$((SECONDS + deadline))
    command=$(aws ssm send-command --instance-ids "$1" --document-name AWS-RunShellScript --timeout-seconds 60 \
        --parameters "{\"commands\":[\"$2\"],\"executionTimeout\":[\"120\"]}" --query Command.CommandId --output text 2>/dev/null) || return 1
    while [ $SECONDS -lt "$limit" ]; do
        status=$(aws ssm get-command-invocation --command-id "$command" --instance-id "$1" --query Status --output text 2>/dev/null) || :
        case $status in
            Success | Failed | TimedOut | Cancelled | Undeliverable) break ;;
        esac
        sleep "$pause"
    done
    aws ssm get-command-invocation --command-id "$command" --instance-id "$1" --query StandardOutputContent --output text
    [ "$status" = Success ]
}

# Waits until the instance answers, in another boot than BEFORE; prints the boot's id.
boot_of() { # INSTANCE BEFORE
    local boot limit=$((SECONDS + deadline))
    while [ $SECONDS -lt "$limit" ]; do
        if boot=$(on "$1" 'cat /proc/sys/kernel/random/boot_id') && [ -n "$boot" ] && [ "$boot" != "$2" ]; then
            echo "$boot"
            return 0
        fi
        sleep "$pause"
    done
    echo "smoke.sh: $1 did not answer within $deadline s" >&2
    return 1
}

# The state that status tells, once cloud-init has ended; the whole of it is kept.
state_of() { # INSTANCE FILE
    # shellcheck disable=SC2016 # the instance's PATH
    on "$1" 'timeout 100 cloud-init status --wait >/dev/null 2>&1; PATH=$PATH:/usr/local/bin; nvme-agent status --output json; exit 0' >"$out/$2" || :
    local state
    state=$(sed -n 's/^  "state": *"\([a-z-]*\)".*/\1/p' "$out/$2" | head -n 1)
    echo "${state:-no agent}"
}

# Prints kept or gone.
marker_of() { # INSTANCE
    on "$1" '[ -e /tmp/smoke-marker ] && echo kept || echo gone' || echo unknown
}

smoke() { # TYPE ARCH
    local type=$1 since=$SECONDS boot
    launch "$type" "$2" "$fetches" || { row "$type" fresh ready 'not started' "$since" && return; }
    local id=$instance
    boot=$(boot_of "$id" '') || { row "$type" fresh ready 'no answer' "$since" && return; }
    row "$type" fresh ready "$(state_of "$id" "$type-fresh.json")" "$since"
    on "$id" 'touch /tmp/smoke-marker; sync' >/dev/null || :

    since=$SECONDS
    aws ec2 reboot-instances --instance-ids "$id"
    boot=$(boot_of "$id" "$boot") || { row "$type" reboot 'ready, kept' 'no answer' "$since" && return; }
    row "$type" reboot 'ready, kept' "$(state_of "$id" "$type-reboot.json"), $(marker_of "$id")" "$since"

    since=$SECONDS
    aws ec2 stop-instances --instance-ids "$id" --output text >/dev/null
    aws ec2 wait instance-stopped --instance-ids "$id"
    aws ec2 start-instances --instance-ids "$id" --output text >/dev/null
    boot=$(boot_of "$id" "$boot") || { row "$type" stop/start 'ready, gone' 'no answer' "$since" && return; }
    row "$type" stop/start 'ready, gone' "$(state_of "$id" "$type-stop-start.json"), $(marker_of "$id")" "$since"
}

# The object is there, and the instance profile may not read it: 403. The instance boots all the same.
denied() { # TYPE ARCH
    local since=$SECONDS
    launch "$1" "$2" "$fails" || { row "$1" 'S3 denied' 'no agent' 'not started' "$since" && return; }
    boot_of "$instance" '' >/dev/null || { row "$1" 'S3 denied' 'no agent' 'no answer' "$since" && return; }
    row "$1" 'S3 denied' 'no agent' "$(state_of "$instance" "$1-denied.json")" "$since"
}

for prefix in $may $may_not; do
    for arch in x86_64 aarch64; do
        aws s3 cp --only-show-errors "$binaries/nvme-agent-$arch" "s3://$bucket/$prefix/nvme-agent-$arch"
    done
done
for type in $types; do
    arch=$(aws ec2 describe-instance-types --instance-types "$type" --output text \
        --query 'InstanceTypes[0].ProcessorInfo.SupportedArchitectures[0]')
    case $arch in
        x86_64) ;;
        arm64) arch=aarch64 ;;
        *) fail "$type: of another architecture: $arch" ;;
    esac
    smoke "$type" "$arch"
    denied "$type" "$arch"
    # One type after the other: an account's limit of vCPUs is small.
    if [ ${#started[@]} -gt 0 ]; then
        aws ec2 terminate-instances --instance-ids "${started[@]}" --output text >/dev/null
        started=()
    fi
done
echo
cat "$table"
if [ "$wrong" -gt 0 ]; then
    echo "$wrong not as expected; status of each is in $out" >&2
    exit 1
fi
