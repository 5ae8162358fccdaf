# What `nvme-agent render` prints, from the same template: packaging/userdata/userdata.sh, whose indentation stays. `agent/tests/
# terraform.rs` holds both against each other.

locals {
  domain   = "nvme-agent.e6data.com"
  source   = "${path.module}/../../userdata/userdata.sh"
  drop_in  = file("${path.module}/../../registration/50-nvme-agent.yaml")
  manifest = file("${path.module}/../../../Cargo.toml")

  # Comments of the template, and lines that say nothing.
  bare = replace(replace(replace(file(local.source), "/(?m)^ *##([^\\[\\]].*)?\\n/", ""), "/(?m)^# shellcheck.*\\n/", ""), "/\\n+/", "\n")

  s3 = [for binary in values(var.binaries) : startswith(binary.url, "s3:")]
  wants = {
    label     = var.on_failure == "label"
    taint     = var.on_failure == "taint"
    "no-join" = var.on_failure == "no-join"
    gate      = var.on_failure != "label"
    # Where drives are required a node without any has failed, which the agent says.
    absent  = var.expect_drives == 0
    config  = local.config != ""
    x86_64  = contains(keys(var.binaries), "x86_64")
    aarch64 = contains(keys(var.binaries), "aarch64")
    curl    = anytrue([for s3 in local.s3 : !s3])
    s3      = anytrue(local.s3)
    either  = anytrue([for s3 in local.s3 : !s3]) && anytrue(local.s3)
    # `render userdata --channel` has the other: Terraform cannot make of minisign's key what openssl reads.
    pinned  = true
    channel = false
  }
  # Each piece ends where a part ends: what is always there, `##[NAME`, and the part.
  pieces = [for piece in split("##]\n", local.bare) : split("##[", piece)]
  script = join("", [
    for piece in local.pieces : length(piece) == 1 ? piece[0] : join("", [
      piece[0],
      local.wants[split("\n", piece[1])[0]] ? join("\n", slice(split("\n", piece[1]), 1, length(split("\n", piece[1])))) : "",
    ])
  ])
  # @NAME@ becomes a reference; the template has neither a dollar nor a per cent sign before a brace.
  template = replace(local.script, "/@([A-Z_0-9]+)@/", "$$${$1}")

  settings = merge(
    var.target == "/tmp" ? {} : { "1 target" = jsonencode(var.target) },
    var.expect_drives == 0 ? {} : { "2 expect_drives" = tostring(var.expect_drives) },
    var.on_failure == "label" ? {} : { "3 on_failure" = jsonencode(var.on_failure) },
    var.profile == "" ? {} : { "4 profile" = jsonencode(var.profile) },
  )
  config = join("\n", concat(
    [for key, value in local.settings : "${split(" ", key)[1]}=${value}"],
    flatten([for directory in var.directories : [
      "[[directory]]",
      "group=${jsonencode(directory.group)}",
      "mode=${jsonencode(format("%04d", directory.mode))}",
      "owner=${jsonencode(directory.owner)}",
      "path=${jsonencode(directory.path)}",
    ]]),
  ))

  none = { url = "", sha256 = "" }
  userdata = templatestring(local.template, {
    VERSION     = regex("(?m)^version *= *\"([^\"]+)\"", local.manifest)[0]
    HEAD        = split("\n      - ", local.drop_in)[0]
    DOMAIN      = local.domain
    STATE       = "$D/state"
    LABELS      = join("", concat([",$D/layout=none,$D/drives=0,$D/capacity-gib=0"], var.profile == "" ? [] : [",$D/profile=${var.profile}"]))
    TAINT       = "$D/failed"
    MODELS      = "-e '^Amazon EC2 NVMe Instance Storage'"
    URL_X86_64  = lookup(var.binaries, "x86_64", local.none).url
    SUM_X86_64  = lookup(var.binaries, "x86_64", local.none).sha256
    URL_AARCH64 = lookup(var.binaries, "aarch64", local.none).url
    SUM_AARCH64 = lookup(var.binaries, "aarch64", local.none).sha256
    REGION      = var.region == "" ? "" : " --region ${var.region}"
    DEADLINE    = var.deadline
    # Three tries take less than half of it, setup the other half.
    TRY    = floor(var.deadline * 2 / 15)
    SETUP  = floor(var.deadline / 2)
    CONFIG = local.config
  })
}

locals {
  workspace = var.workspace == "" ? {} : { app = "e6data", "e6data-workspace-name" = var.workspace }
  labels    = var.workspace == "" ? {} : { labels = local.workspace }
  discovery = [{ tags = { "karpenter.sh/discovery" = var.cluster } }]

  node_class = {
    apiVersion = "karpenter.k8s.aws/v1"
    kind       = "EC2NodeClass"
    metadata   = merge({ name = var.name }, local.labels)
    spec = merge({
      amiSelectorTerms           = [{ alias = var.ami_alias }]
      role                       = var.role
      subnetSelectorTerms        = local.discovery
      securityGroupSelectorTerms = local.discovery
      blockDeviceMappings        = [{ deviceName = "/dev/xvda", ebs = { volumeSize = "${var.volume_size}Gi", volumeType = "gp3" } }]
      userData                   = local.userdata
    }, length(var.tags) == 0 ? {} : { tags = var.tags })
  }

  of_nodes = merge(local.workspace, var.profile == "" ? {} : { "${local.domain}/profile" = var.profile })
  among = [for requirement in [
    ["kubernetes.io/os", ["linux"]],
    ["kubernetes.io/arch", [for arch in ["x86_64", "aarch64"] : arch == "x86_64" ? "amd64" : "arm64" if contains(keys(var.binaries), arch)]],
    ["karpenter.sh/capacity-type", var.capacity_types],
    ["karpenter.k8s.aws/instance-family", var.families],
    ["topology.kubernetes.io/zone", var.zones],
  ] : { key = requirement[0], operator = "In", values = requirement[1] } if length(requirement[1]) > 0]

  node_pool = {
    apiVersion = "karpenter.sh/v1"
    kind       = "NodePool"
    metadata   = merge({ name = var.name }, local.labels)
    spec = {
      limits     = { cpu = var.cpu_limit }
      disruption = { consolidationPolicy = "WhenEmpty", consolidateAfter = "30s" }
      template = merge(length(local.of_nodes) == 0 ? {} : { metadata = { labels = local.of_nodes } }, {
        spec = merge({
          expireAfter  = var.expire_after
          nodeClassRef = { group = "karpenter.k8s.aws", kind = "EC2NodeClass", name = var.name }
          # In GiB; types without instance store have no such label, and never match.
          requirements = concat([{ key = "karpenter.k8s.aws/instance-local-nvme", operator = "Gt", values = ["0"] }], local.among)
        }, var.workspace == "" ? {} : { taints = [{ key = "e6data-workspace-name", value = var.workspace, effect = "NoSchedule" }] })
      })
    }
  }
}
