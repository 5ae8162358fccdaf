# The binaries in a bucket, the nodes' right to read them, and Karpenter's two objects.

data "aws_partition" "current" {}

resource "aws_s3_object" "binary" {
  for_each           = var.files
  bucket             = var.bucket
  key                = "nvme-agent/${var.release}/nvme-agent-${each.key}"
  source             = each.value
  source_hash        = filesha256(each.value)
  kms_key_id         = var.kms_key_arn == "" ? null : var.kms_key_arn
  bucket_key_enabled = var.kms_key_arn == "" ? null : true
}

data "aws_iam_policy_document" "fetch" {
  statement {
    sid       = "NvmeAgentBinary"
    actions   = ["s3:GetObject"]
    resources = [for object in aws_s3_object.binary : "arn:${data.aws_partition.current.partition}:s3:::${var.bucket}/${object.key}"]
  }
  dynamic "statement" {
    for_each = var.kms_key_arn == "" ? [] : [var.kms_key_arn]
    content {
      sid       = "NvmeAgentKey"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        # Both, since which of them KMS says in China could not be tried.
        values = distinct(["s3.${var.region}.amazonaws.com", "s3.${var.region}.${data.aws_partition.current.dns_suffix}"])
      }
    }
  }
}

resource "aws_iam_role_policy" "fetch" {
  name   = "nvme-agent-fetch"
  role   = var.node_role
  policy = data.aws_iam_policy_document.fetch.json
}

module "core" {
  source = "../core"
  binaries = {
    for arch, object in aws_s3_object.binary : arch => {
      url    = "s3://${var.bucket}/${object.key}"
      sha256 = filesha256(var.files[arch])
    }
  }
  region         = var.region
  cluster        = var.cluster
  role           = var.node_role
  name           = var.name
  on_failure     = var.options.on_failure
  profile        = var.options.profile
  workspace      = var.options.workspace
  families       = var.options.families
  zones          = var.options.zones
  capacity_types = var.options.capacity_types
  cpu_limit      = var.options.cpu_limit
  expire_after   = var.options.expire_after
  tags           = var.options.tags
}

resource "kubernetes_manifest" "node_class" {
  manifest = module.core.node_class
  # A node that starts before it may read the binary would fail.
  depends_on = [aws_iam_role_policy.fetch]
}

resource "kubernetes_manifest" "node_pool" {
  manifest   = module.core.node_pool
  depends_on = [kubernetes_manifest.node_class]
}
